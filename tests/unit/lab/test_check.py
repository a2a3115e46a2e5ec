"""What a lab wants and this host has not: each place, and what is said of it."""

import tomllib
from pathlib import Path

import pytest

from vbackend.errors import HostError
from vbackend.lab import check
from vbackend.lab.check import host_problems
from vbackend.lab.locate import key_text
from vbackend.lab.model import Lab
from vbackend.qemu.catalogue import Devices

MACHINES = frozenset(("pc", "q35", "microvm", "pc-q35-7.2"))
DEVICES = Devices(frozenset(("e1000", "virtio-net-pci", "virtio-net")), frozenset(("virtio-rng-pci",)))
LISTED = "`qemu-system-x86_64 -{} help` lists them"


def found(text: str) -> list[str]:
    lab = Lab.model_validate(tomllib.loads(f"name = 'l'\n{text}"))
    return [f"{key_text(where)}: {what}" for where, what in host_problems(lab)]


@pytest.fixture
def qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "known_machines", lambda: MACHINES)
    monkeypatch.setattr(check, "known_devices", lambda: DEVICES)


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        ("vm.a.image = 'small'\nvm.b = {kernel = 'there', disk = 'there', persistent = true}", []),
        ("vm.a.kernel = 'k'", ["vm.a.kernel: there is no file 'k'; give a path from the lab file's folder"]),
        (
            "vm.a = {kernel = 'there', initrd = 'folder'}",
            ["vm.a.initrd: 'folder' is no file; give a path from the lab file's folder"],
        ),
        (
            "vm.a = {image = 'small', files = {'/etc/x' = 'x'}}",
            ["vm.a.files.\"/etc/x\": there is no file 'x'; give a path from the lab file's folder"],
        ),
        ("vm.a.image = 'wrong.toml'", ["vm.a.image: {here}/wrong.toml: description: Field required"]),
        (
            f"vm.a.kernel = '{'x' * 300}'",
            [
                f"vm.a.kernel: there is no file '{'x' * 300}' (File name too long); "
                "give a path from the lab file's folder"
            ],
        ),
        (
            f"vm.a.image = '/{'x' * 300}.toml'",
            [f"vm.a.image: [Errno 36] File name too long: '/{'x' * 300}.toml'"],
        ),
        (
            r'vm.a.kernel = "\u0000"',
            [
                r"vm.a.kernel: there is no file '\x00' (embedded null byte); give a path from the lab file's folder"
            ],
        ),
        ("capture = [{file = 'no/x'}]", ["capture[0].file: there is no folder 'no'; make it first"]),
        ("capture = [{file = 'there'}]", []),
        ("capture = [{file = 'folder'}]", ["capture[0].file: 'folder' is no file; give another name"]),
        ("capture = [{file = 'there/x'}]", ["capture[0].file: there is no folder 'there'; make it first"]),
    ],
    ids=[
        "all there",
        "kernel",
        "a folder",
        "file",
        "recipe",
        "a long name",
        "a long name of a recipe",
        "no name",
        "capture",
        "a capture again",
        "a folder as capture",
        "no folder",
    ],
)
def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, complaints: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").touch()
    Path("folder").mkdir()
    Path("wrong.toml").write_text("kernel = 'x'\noverlay = 'x'\nmemory_mib = 64\ncmdline = ''\n")
    assert found(text) == [each.format(here=tmp_path.resolve()) for each in complaints]


def test_an_unknown_image() -> None:
    (said,) = found("vm.a.image = 'no-such'")
    assert said.startswith("vm.a.image: there is no image recipe 'no-such'; known: ")


@pytest.mark.parametrize(
    ("vm", "allowed", "complaints"),
    [
        ("disk = 'x'", 4, []),
        ("disk = 'x'", 0, ["vm.a.disk: no permission for 'x'; see its owner and mode"]),
        ("disk = 'x'\npersistent = true", 4, ["vm.a.disk: no permission for 'x'; see its owner and mode"]),
        ("disk = 'x'\npersistent = true", 6, []),
        (
            "disk = 'x'\n[[capture]]\nfile = 'y'",
            4,
            ["capture[0].file: no permission to write to folder '.'; see its owner and mode"],
        ),
        ("disk = 'x'\n[[capture]]\nfile = 'y'", 7, []),
        (
            "disk = 'x'\n[[capture]]\nfile = 'x'",
            4,
            ["capture[0].file: no permission to write 'x'; see its owner and mode"],
        ),
    ],
)
def test_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vm: str, allowed: int, complaints: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x").touch()
    monkeypatch.setattr("os.access", lambda _, wanted: wanted & allowed == wanted)
    assert found(f"[vm.a]\n{vm}") == complaints


@pytest.mark.parametrize(
    ("end", "what"),
    [
        ("stream:unix:{}/x", None),
        ("stream:unix:{}/no/x", "there is no folder '{}/no'; make it first"),
        ("stream:unix:{}/no/x,dial", None),
        ("stream:unix:@no/x", None),
        ("vhost-user:{}/no/x", "there is no folder '{}/no'; make it first"),
        ("unit:{}/no/x", "there is no folder '{}/no'; make it first"),
        ("dgram:unix:{}/no/x:{}/no/y", "there is no folder '{}/no'; make it first"),
        ("vde:{}/no/x", "there is no folder '{}/no'; make it first"),
        ("vde:{}/x", None),
        ("vde:{}/file", "'{}/file' is no folder; remove it or choose another path"),
        ("vde:{}", None),
        ("unit:{}/file", "'{}/file' is no socket; remove it or choose another path"),
        ("stream:unix:{}/file,dial", None),
        ("tap:t0", None),
        ("tap:t0,netns=no-such", "there is no network namespace 'no-such'; make it with `ip netns add no-such`"),
        ("tap:t0,owner=root", None),
        ("tun:t0,owner=no-such", "owner=no-such: there is no such user; give a name or a number"),
        ("vde:{}/x,group=no-such", "group=no-such: there is no such group; give a name or a number"),
        ("tun:t0,netns=no-such", "there is no network namespace 'no-such'; make it with `ip netns add no-such`"),
    ],
)  # fmt: skip
def test_ports(tmp_path: Path, end: str, what: str | None) -> None:
    (tmp_path / "file").touch()
    end = end.replace("{}", str(tmp_path))
    told = [] if what is None else [f"switch.s.ports[0]: {end!r}: {what.format(tmp_path)}"]
    assert found(f"switch.s.ports = ['{end}']") == told


@pytest.mark.parametrize(
    ("capture", "complaint"),
    [
        ("filter = 'tcp port 80'", None),
        ("filter = ''", None),
        ("filter = 'tcp prot 80'", "syntax error; see man pcap-filter for the language"),
        ("filter = 'ether host 02:00:00:00:00:01'\nlinks = ['lan/t0', 'core']", None),
        ("filter = 'ether host 02:00:00:00:00:01'\nlinks = ['lan/u0']", "(packets of lan/u0 have no Ethernet header)"),
        ("filter = 'ether host 02:00:00:00:00:01'\nlinks = ['pair']", "(packets of pair have no Ethernet header)"),
        ("filter = 'ether host 02:00:00:00:00:01'", "(packets of lan/u0 have no Ethernet header)"),
        ("filter = 'ip6'", None),
    ],
    ids=["right", "empty", "syntax", "frames", "unit", "cable of units", "all links", "all links, right"],
)  # fmt: skip
def test_filters(tmp_path: Path, capture: str, complaint: str | None) -> None:
    text = f"""
switch.lan.ports = ['tap:t0', 'tun:u0']
cable = [
    {{ends = ['tap:t1', 'tun:u1'], name = 'core'}},
    {{ends = ['unit:{tmp_path}/u2,header=loop', 'tun:u3'], name = 'pair'}},
]
[[capture]]
file = '{tmp_path}/x'
"""
    said = found(text + capture)
    if complaint is None:
        assert said == []
    else:
        (one,) = said
        assert one.startswith("capture[0].filter: filter ")
        assert one.endswith(complaint)


def test_without_libpcap_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise HostError("there is no libpcap")

    monkeypatch.setattr(check, "compile_filter", refuse)
    assert found(f"capture = [{{file = '{tmp_path}/x', filter = '('}}]") == []


@pytest.mark.usefixtures("qemu")
@pytest.mark.parametrize(
    ("vm", "complaints"),
    [
        ("machine = 'q35'", []),
        ("machine = 'q35,accel=tcg'", []),
        ("machine = 'accel=tcg'", []),
        ("machine = 'accel=tcg,type=q35'", []),
        ("machine = 'q53'", ["machine: qemu-system-x86_64 has no machine 'q53'; did you mean 'q35'?"]),
        (
            "machine = 'accel=tcg,type=virt'",
            [f"machine: qemu-system-x86_64 has no machine 'virt'; {LISTED.format('machine')}"],
        ),
        ("machine = 'virt'\nargs = ['-M', 'q35']", []),
        ("nic = {x.model = 'e1000', y.model = 'virtio-net'}", []),
        (
            "nic.x.model = 'e100'",
            ["nic.x.model: qemu-system-x86_64 has no network card 'e100'; did you mean 'e1000'?"],
        ),
        (
            "nic.x.model = 'tulip'",
            [f"nic.x.model: qemu-system-x86_64 has no network card 'tulip'; {LISTED.format('device')}"],
        ),
        (
            "nic.x.model = 'virtio-rng-pci'",
            [
                "nic.x.model: 'virtio-rng-pci' is a device of qemu-system-x86_64, but no network card; "
                f"{LISTED.format('device')}"
            ],
        ),
    ],
)
def test_models(tmp_path: Path, vm: str, complaints: list[str]) -> None:
    (tmp_path / "k").touch()
    assert found(f"[vm.a]\nkernel = '{tmp_path}/k'\n{vm}") == [f"vm.a.{each}" for each in complaints]


def test_without_qemu_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "k").touch()
    monkeypatch.setattr(check, "known_machines", frozenset)
    monkeypatch.setattr(check, "known_devices", Devices)
    assert found(f"[vm.a]\nkernel = '{tmp_path}/k'\nmachine = 'virt'\nnic.x.model = 'tulip'") == []


def test_qemu_is_not_asked_for_what_every_one_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "k").touch()
    for name in ("known_machines", "known_devices"):
        monkeypatch.setattr(check, name, lambda: pytest.fail("asked"))
    assert found(f"[vm.a]\nkernel = '{tmp_path}/k'\n[vm.a.nic.x]\nqueues = 1") == []
