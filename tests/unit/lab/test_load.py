"""What lab files become, and what is said about wrong ones: file, line, key, what was found, what was expected."""

import os
from pathlib import Path
from typing import Any

import pytest

from vbackend.lab.load import LabError, load_lab, parse_lab

GOOD = """
[vm.r1]
image = "my/router.toml"
files = { "/etc/x" = "x.conf" }
[vm.h1]
kernel = "vmlinuz"
initrd = "/boot/initrd"
disk = "sub/disk.qcow2"
[switch.lan]
ports = ["r1:eth0", "stream:unix:a.sock,name=a", "unit:u.sock", "dgram:unix:l.sock:/tmp/r.sock", "tap:lab0"]
[[cable]]
ends = ["vhost-user:/run/v.sock", "stream:tcp:127.0.0.1:7"]
[[capture]]
file = "all.pcapng"
"""


def test_paths_are_from_the_files_folder() -> None:
    lab = parse_lab(GOOD, folder=Path("/labs/a,b"), name="two")
    r1, h1 = lab.vm["r1"], lab.vm["h1"]
    assert (r1.image, r1.files) == ("/labs/a,b/my/router.toml", {"/etc/x": "/labs/a,b/x.conf"})
    assert (h1.kernel, h1.initrd, h1.disk) == (
        "/labs/a,b/vmlinuz",
        "/boot/initrd",
        "/labs/a,b/sub/disk.qcow2",
    )
    assert lab.switch["lan"].ports == (
        "r1:eth0",
        "stream:unix:/labs/a,,b/a.sock,name=a",
        "unit:/labs/a,,b/u.sock",
        "dgram:unix:/labs/a,,b/l.sock:/tmp/r.sock",
        "tap:lab0",
    )
    assert lab.cable[0].ends == ("vhost-user:/run/v.sock", "stream:tcp:127.0.0.1:7")
    assert lab.capture[0].file == "/labs/a,b/all.pcapng"


def test_an_image_that_is_a_name_stays_one() -> None:
    assert parse_lab({"name": "l", "vm": {"a": {"image": "small"}}}).vm["a"].image == "small"


def test_the_name_is_the_files(tmp_path: Path) -> None:
    file = tmp_path / "two-routers.toml"
    file.write_text("[vm.a]\nimage = 'small'\n")
    assert load_lab(file).name == "two-routers"
    file.write_text("name = 'other'\n")
    assert load_lab(file).name == "other"


def test_a_mapping_is_not_changed() -> None:
    given: dict[str, Any] = {"capture": [{"file": "x"}]}
    assert parse_lab(given, name="l", folder=Path("/f")).capture[0].file == "/f/x"
    assert given == {"capture": [{"file": "x"}]}


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        ("a = x!\nb = 1", ["lab.toml:1: this is not TOML, column 5: invalid value"]),
        ("a = ", ["lab.toml:1: this is not TOML, at the end: invalid value"]),
        ("x = [\n", ["lab.toml:2: this is not TOML, at the end: invalid value"]),
        ("name = 5", ["lab.toml:1: name: found the integer 5, expected a string"]),
        (
            "\n[vm.a]\nimage = 's'\nmemory = 256\nmemry = 1",
            [
                'lab.toml:4: vm.a.memory: found the integer 256, expected a string such as "256M"',
                "lab.toml:5: vm.a.memry: there is no such key; did you mean 'memory'?",
            ],
        ),
        (
            "[vm.a]\nimage = 's'\nargs = [\n'-s',\n\n7]",
            ["lab.toml:6: vm.a.args[1]: found the integer 7, expected a string"],
        ),
        (
            "[vm.a]\nimage = 's'\n[vm.a.nic.eth0]\nqueues = 99",
            ["lab.toml:4: vm.a.nic.eth0.queues: found the integer 99, expected an integer from 1 to 16"],
        ),
        (
            "[vm.a]\nimage = 's'\nnic.e.transport = 'tap'",
            [
                'lab.toml:3: vm.a.nic.e.transport: found the string "tap", '
                'expected one of "stream", "vhost-user"'
            ],
        ),
        ("vm = []", ["lab.toml:1: vm: found the array [], expected a table"]),
        ("vm.a.image = 1.5", ["lab.toml:1: vm.a.image: found the float 1.5, expected a string"]),
        (
            "switch = 2020-01-01",
            ['lab.toml:1: switch: found the date or time "2020-01-01", expected a table'],
        ),
        ("foo = 1", ["lab.toml:1: foo: there is no such key; there are name, vm, switch, cable, capture"]),
        ("\n[vm.a]\ncpus = 1", ["lab.toml:2: vm.a: nothing to boot; give image, kernel or disk"]),
        (
            "[vm.Router]\nimage = 's'",
            ["lab.toml:1: vm.Router: 'Router' is no name; use up to 20 of a-z, 0-9 and '-', a letter first"],
        ),
        (
            "\n[[cable]]\nname = 'x'",
            ["lab.toml:2: cable[0]: ends is missing, expected an array of two strings"],
        ),
        (
            "\n[[cable]]\nends = ['tap:a']",
            ["lab.toml:3: cable[0].ends: [1] is missing, expected a string"],
        ),
        (
            "[[cable]]\nends = ['tap:a', 'tap:b']\ncarrier = true",
            ["lab.toml:3: cable[0].carrier: found the boolean true, expected a string or a number or false"],
        ),
        (
            "[[cable]]\nends = ['tap:a', 'tap:b']\n[[cable]]\nends = [\n  'tap:c',\n  'tap:a',\n]",
            [
                "lab.toml:6: cable[1].ends[1]: end 'a' is joined twice; a NIC or PORT has one place, "
                "name= tells PORTs apart"
            ],
        ),
        (
            "[switch.s]\nports = ['r1:eth0']",
            ["lab.toml:2: switch.s.ports[0]: end 'r1:eth0': there is no VM 'r1'; there are none"],
        ),
        (
            "[switch.s]\nports = ['r1:eth0']\n[[capture]]\nfile = 'x'\nlinks = ['y']",
            [
                "lab.toml:2: switch.s.ports[0]: end 'r1:eth0': there is no VM 'r1'; there are none",
                "lab.toml:5: capture[0].links[0]: there is no link 'y'; there are s/r1:eth0",
            ],
        ),
        (
            "[[capture]]\nfile = 'x'\nlinks = ['y']",
            ["lab.toml:3: capture[0].links[0]: there is no link 'y'; there are none"],
        ),
        (
            "[switch.s]\naddr = ['10.0.0.1/24']\ndhcp = {}",
            [
                'lab.toml:3: switch.s.dhcp: range is missing, expected a string such as "10.0.0.100-10.0.0.150"'
            ],
        ),
        (
            f"vm.a.kernel = {['x' * 99]}",
            [f'lab.toml:1: vm.a.kernel: found the array ["{"x" * 55}..., expected a string'],
        ),
    ],
)
def test_what_is_wrong(text: str, complaints: list[str]) -> None:
    with pytest.raises(LabError) as caught:
        parse_lab(text, origin="lab.toml", name="l")
    assert [str(problem) for problem in caught.value.problems] == complaints
    more = f" (and {len(complaints) - 1} more; `vbackend lab check` tells all)" if len(complaints) > 1 else ""
    assert str(caught.value) == complaints[0] + more


def test_a_mapping_has_no_lines() -> None:
    with pytest.raises(LabError) as caught:
        parse_lab({"vm": {"a": {"image": 5}}}, name="l")
    assert str(caught.value) == "<string>: vm.a.image: found the integer 5, expected a string"


CLASH = """
[switch.lan]
ports = ["a:eth0", "b:eth0"]
[vm.a]
kernel = "k"
nic.eth0 = { addr = ["10.0.0.1/24"] }
[vm.b]
kernel = "/dev/null/k"
nic.eth0 = { addr = ["10.0.0.1/24"] }
"""
CLASHES = (
    "vm.b.nic.eth0.addr[0]: 10.0.0.1 belongs to a:eth0 too (vm.a.nic.eth0.addr[0]), on the same switch lan; "
    "give one of them another"
)


def test_what_is_in_each_others_way() -> None:
    with pytest.raises(LabError) as caught:
        parse_lab(CLASH, origin="lab.toml", name="l")
    assert list(map(str, caught.value.problems)) == [f"lab.toml:9: {CLASHES}"]


def test_all_that_is_wrong_is_told(tmp_path: Path) -> None:
    """Of the parts of the lab, and of this host."""
    file = tmp_path / "l.toml"
    file.write_text(CLASH)
    with pytest.raises(LabError) as caught:
        load_lab(file)
    where = "give a path from the lab file's folder"
    assert list(map(str, caught.value.problems)) == [
        f"{file}:5: vm.a.kernel: there is no file '{tmp_path}/k'; {where}",
        f"{file}:8: vm.b.kernel: there is no file '/dev/null/k'; {where}",
        f"{file}:9: {CLASHES}",
    ]


def test_what_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "l.toml"
    file.write_text("[vm.a]\nimage = 'nosuch'\nfiles = {'/etc/x' = 'x'}\n[vm.b]\nkernel = 'k'\ndisk = 'd'\n")
    (tmp_path / "k").touch()
    with pytest.raises(LabError) as caught:
        load_lab(file)
    image, host, disk = map(str, caught.value.problems)
    assert image.startswith(f"{file}:2: vm.a.image: there is no image recipe 'nosuch'; known: ")
    assert host.startswith(f"{file}:3: vm.a.files.\"/etc/x\": there is no file '{tmp_path}/x'")
    assert disk.startswith(f"{file}:6: vm.b.disk: there is no file")
    assert load_lab(file, host=False).vm["b"].disk == f"{tmp_path}/d"


@pytest.mark.parametrize(
    ("content", "what"), [(None, "cannot be read: No such file or directory"), (b"\xff", "is not text")]
)
def test_what_is_no_lab_file(tmp_path: Path, content: bytes | None, what: str) -> None:
    file = tmp_path / "l.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LabError, match=what):
        load_lab(file)


def test_a_path_that_is_no_text(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"gr\xfcn")
    folder.mkdir()
    (folder / "x.toml").write_text("")
    with pytest.raises(LabError, match=r"gr.udcfcn/x.toml': has a path that is not in UTF-8; move it"):
        load_lab(folder / "x.toml")
