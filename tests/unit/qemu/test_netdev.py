"""QEMU's arguments for every kind of port: as a table, and taken by the QEMU that is installed."""

import os
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.run import wait_until
from vbackend.errors import ConfigError
from vbackend.ports.parse import parse_port
from vbackend.ports.spec import ChannelSpec, PortOptions, StreamSpec, UnixAddress
from vbackend.qemu.netdev import derived_mac, netdev_arguments
from vbackend.qemu.version import QEMU, QemuVersion, qemu_version

OLD, MIDDLE, NEW = QemuVersion(7, 2, 22), QemuVersion(8, 2, 0), QemuVersion(10, 0, 2)

# port, version, the value of -netdev
NETDEVS = [
    ("stream:unix:/tmp/a", OLD, "stream,id=n,server=off,addr.type=unix,addr.path=/tmp/a"),
    ("stream:unix:/tmp/a", MIDDLE, "stream,id=n,server=off,addr.type=unix,addr.path=/tmp/a,reconnect=1"),
    ("stream:unix:/tmp/a", NEW, "stream,id=n,server=off,addr.type=unix,addr.path=/tmp/a,reconnect-ms=500"),
    ("stream:unix:/tmp/a,dial", OLD, "stream,id=n,server=on,addr.type=unix,addr.path=/tmp/a"),
    ("stream:unix:/tmp/a,dial", NEW, "stream,id=n,server=on,addr.type=unix,addr.path=/tmp/a"),
    ("stream:unix:/tmp/a,,b=,,", OLD, "stream,id=n,server=off,addr.type=unix,addr.path=/tmp/a,,b=,,"),
    ("stream:unix:@lab", OLD, "stream,id=n,server=off,addr.type=unix,addr.path=lab,addr.abstract=on"),
    ("stream:tcp:10.0.0.1:5", OLD, "stream,id=n,server=off,addr.type=inet,addr.host=10.0.0.1,addr.port=5"),
    ("stream:tcp:0.0.0.0:5", OLD, "stream,id=n,server=off,addr.type=inet,addr.host=127.0.0.1,addr.port=5"),
    ("stream:tcp:[::]:5", OLD, "stream,id=n,server=off,addr.type=inet,addr.host=::1,addr.port=5"),
    (
        "stream:tcp:[fd00::1]:5,dial",
        OLD,
        "stream,id=n,server=on,addr.type=inet,addr.host=fd00::1,addr.port=5",
    ),
    (
        "stream:tcp:lab.example:5",
        MIDDLE,
        "stream,id=n,server=off,addr.type=inet,addr.host=lab.example,addr.port=5,reconnect=1",
    ),
    (
        "dgram:unix:/tmp/ours:/tmp/theirs",
        NEW,
        "dgram,id=n,local.type=unix,local.path=/tmp/theirs,remote.type=unix,remote.path=/tmp/ours",
    ),
    (
        "dgram:udp:0.0.0.0:1:10.0.0.2:2",
        OLD,
        "dgram,id=n,local.type=inet,local.host=10.0.0.2,local.port=2,"
        "remote.type=inet,remote.host=127.0.0.1,remote.port=1",
    ),
    ("dgram:mcast:230.0.0.1:5", OLD, "dgram,id=n,remote.type=inet,remote.host=230.0.0.1,remote.port=5"),
    (
        "dgram:mcast:230.0.0.1:5,local=127.0.0.1",
        OLD,
        "dgram,id=n,remote.type=inet,remote.host=230.0.0.1,remote.port=5,"
        "local.type=inet,local.host=127.0.0.1,local.port=0",
    ),
    ("socket:listen:0.0.0.0:5", NEW, "socket,id=n,connect=127.0.0.1:5"),
    ("socket:connect:127.0.0.1:5", NEW, "socket,id=n,listen=127.0.0.1:5"),
    ("socket:listen:127.0.0.1:5", QemuVersion(4, 2), "socket,id=n,connect=127.0.0.1:5"),
    ("socket:udp:127.0.0.1:1:127.0.0.1:2", NEW, "socket,id=n,udp=127.0.0.1:1,localaddr=127.0.0.1:2"),
    ("socket:mcast:230.0.0.1:5", NEW, "socket,id=n,mcast=230.0.0.1:5"),
    ("vde:/tmp/s,,w,mode=0660", QemuVersion(6, 0), "vde,id=n,sock=/tmp/s,,w"),
    ("socket:mcast:230.0.0.1:5,local=127.0.0.1", NEW, "socket,id=n,mcast=230.0.0.1:5,localaddr=127.0.0.1"),
]


@pytest.mark.parametrize(("port", "version", "netdev"), NETDEVS)
def test_netdev(port: str, version: QemuVersion, netdev: str) -> None:
    words = netdev_arguments(parse_port(port), version, netdev_id="n", mac="52:54:00:00:00:07").arguments
    assert words == ("-netdev", netdev, "-device", "virtio-net-pci,netdev=n,mac=52:54:00:00:00:07")


@pytest.mark.parametrize(
    ("port", "netdev"),
    [
        ("stream:unix:/a", "stream,id=n,addr.type=fd,addr.str=9"),
        ("stream:tcp:127.0.0.1:0", "stream,id=n,addr.type=fd,addr.str=9"),
        ("dgram:unix:@a:@b", "dgram,id=n,local.type=fd,local.str=9"),
        ("socket:listen:127.0.0.1:5", "socket,id=n,fd=9"),
        ("socket:udp:127.0.0.1:1:127.0.0.1:2", "socket,id=n,fd=9"),
    ],
)
def test_on_a_passed_descriptor(port: str, netdev: str) -> None:
    found = netdev_arguments(parse_port(port), OLD, netdev_id="n", fd=9, model="e1000,x")
    assert found.arguments[:3] == ("-netdev", netdev, "-device")
    assert found.arguments[3].startswith("e1000,x,netdev=n,mac=52:54:00:")
    assert not found.notes


PATH = "socket,id=n-socket,path=/a"

# port, version, on KVM, the values of -chardev, -netdev and -device behind its mac=
VHOST_USER = [
    ("vhost-user:/a", OLD, False, f"{PATH},reconnect=1", "", ",vectors=0,packed=on"),
    ("vhost-user:/a", OLD, True, f"{PATH},reconnect=1", "", ",packed=on"),
    ("vhost-user:/a", QemuVersion(9, 2), False, f"{PATH},reconnect-ms=500", "", ",vectors=0,packed=on"),
    ("vhost-user:/a", NEW, False, f"{PATH},reconnect-ms=500", "", ",packed=on"),
    ("vhost-user:/a,dial,packed=off", NEW, False, f"{PATH},server=on,wait=off", "", ""),
    (
        "vhost-user:@x,,y,packed=off",
        OLD,
        True,
        "socket,id=n-socket,path=x,,y,abstract=on,reconnect=1",
        "",
        "",
    ),
    ("vhost-user:/a,queues=4", OLD, False, f"{PATH},reconnect=1", ",queues=4", ",mq=on,vectors=0,packed=on"),
    (
        "vhost-user:/a,queues=4,mtu=9000",
        NEW,
        False,
        f"{PATH},reconnect-ms=500",
        ",queues=4",
        ",mq=on,vectors=10,packed=on,host_mtu=9000",
    ),
    ("vhost-user:/a,offloads=off,busy-poll=9", OLD, True, f"{PATH},reconnect=1", "", ",packed=on"),
]


@pytest.mark.parametrize(("port", "version", "kvm", "chardev", "netdev", "card"), VHOST_USER)
def test_vhost_user(port: str, version: QemuVersion, kvm: bool, chardev: str, netdev: str, card: str) -> None:
    spec, mac = parse_port(port), "52:54:00:00:00:07"
    words = netdev_arguments(spec, version, netdev_id="n", mac=mac, kvm=kvm).arguments
    assert words[:4] == ("-chardev", chardev, "-netdev", f"vhost-user,id=n,chardev=n-socket{netdev}")
    assert words[4:] == ("-device", f"virtio-net-pci,netdev=n,mac={mac}{card}")


@pytest.mark.parametrize(
    ("version", "kvm", "notes"),
    [
        (NEW, False, ()),
        (OLD, False, ("that is why it has vectors=0",)),
        (OLD, True, ("this is for KVM only",)),
    ],
)
def test_a_note_on_what_crashes(version: QemuVersion, kvm: bool, notes: tuple[str, ...]) -> None:
    found = netdev_arguments(parse_port("vhost-user:/a"), version, kvm=kvm).notes
    assert len(found) == len(notes)
    assert all(note.endswith(words) for note, words in zip(found, notes, strict=True))


@pytest.mark.parametrize(
    ("port", "version", "message"),
    [
        (
            "tap:tap0",
            NEW,
            "'tap:tap0' is not for a guest: QEMU connects to stream:, dgram:, socket:, vhost-user: and vde: ports",
        ),
        ("tun:tun0", NEW, "is not for a guest"),
        ("stream:unix:/a", QemuVersion(7, 1), "QEMU 7.1.0 has no -netdev stream and dgram; take QEMU 7.2"),
        ("dgram:mcast:230.0.0.1:5", QemuVersion(6, 2), "or a socket: port"),
        ("stream:tcp:127.0.0.1:0", NEW, "give its number in place of 0"),
        ("dgram:unix:@a:/b", NEW, "no abstract names; give paths"),
        ("dgram:unix:/a:@b", NEW, "no abstract names; give paths"),
        ("dgram:udp:[::1]:1:[::1]:2", NEW, "no IPv6 here; give IPv4 addresses, or a stream:tcp: port"),
        ("stream:unix:/a,mac=52:54:00:00:00:01", NEW, "give the card that address, not 52:54:00:00:00:07"),
    ],
)
def test_what_qemu_cannot_be_a_peer_of(port: str, version: QemuVersion, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        netdev_arguments(parse_port(port), version, mac="52:54:00:00:00:07")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("port", ["vhost-user:/a", "vde:/a"])
def test_some_have_no_passed_descriptor(port: str) -> None:
    """A chardev does not pass descriptors on (chardev/char-socket.c), libvdeplug takes a path."""
    with pytest.raises(ConfigError, match="only on a socket with a path"):
        netdev_arguments(parse_port(port), NEW, fd=9)


def test_notes_on_vde() -> None:
    notes = netdev_arguments(parse_port("vde:/a"), NEW).notes
    assert [note.split()[0] for note in notes] == ["-netdev", "this", "every"]
    assert netdev_arguments(parse_port("vde:/a"), NEW, mac="52:54:00:00:00:07").notes == notes[:2]


def test_specs_without_a_text_form() -> None:
    with pytest.raises(ConfigError, match="is not for a guest"):
        netdev_arguments(ChannelSpec("channel:x", PortOptions()), NEW)
    with pytest.raises(ConfigError, match="write stream:unix:PATH"):
        netdev_arguments(StreamSpec("socket:x", PortOptions(), UnixAddress("/a"), legacy=True), NEW)


@pytest.mark.parametrize(
    ("port", "version", "notes"),
    [
        ("stream:unix:/a", OLD, ["the port stream:unix:/a,dial helps"]),
        ("stream:unix:/a", MIDDLE, []),
        ("stream:unix:/a", NEW, []),
        ("stream:unix:/a,dial", OLD, []),
        ("stream:unix:/a,multi", NEW, ["a MAC address of its own"]),
        ("socket:listen:127.0.0.1:5", NEW, ["the port socket:connect: helps"]),
        ("socket:connect:127.0.0.1:5", NEW, []),
        ("dgram:mcast:230.0.0.1:5", OLD, []),
    ],
)
def test_notes(port: str, version: QemuVersion, notes: list[str]) -> None:
    found = netdev_arguments(parse_port(port), version).notes
    assert len(found) == len(notes)
    assert all(part in note for part, note in zip(notes, found, strict=True))


def test_the_card_has_an_address_that_stays() -> None:
    def mac(port: str, given: str | None = None) -> str:
        return netdev_arguments(parse_port(port), NEW, mac=given).arguments[3].rpartition("mac=")[2]

    assert mac("stream:unix:/a") == mac("stream:unix:/a,queue=7") == derived_mac("stream:unix:/a")
    assert mac("stream:unix:/a").startswith("52:54:00:")
    assert len({mac(f"stream:unix:/{number}") for number in range(50)}) == 50
    assert mac("stream:unix:/a,mac=52:54:00:aa:bb:cc") == "52:54:00:aa:bb:cc"
    assert mac("stream:unix:/a,mac=52:54:00:aa:bb:cc", "52-54-00-AA-BB-CC") == "52-54-00-AA-BB-CC"


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def start_qemu(netdev: str, cwd: Path, *fds: int) -> tuple[int, str]:
    """Start QEMU with this netdev and end it by QMP; its status and what it complained of."""
    command = [
        QEMU,
        "-machine",
        "none",
        "-nodefaults",
        "-display",
        "none",
        "-qmp",
        "stdio",
        "-netdev",
        netdev,
    ]
    done = subprocess.run(
        command,
        input='{"execute":"qmp_capabilities"}\n{"execute":"quit"}\n',
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        pass_fds=fds,
        check=False,
    )
    words = [line for line in done.stderr.splitlines() if "has no peer" not in line]
    return done.returncode, "\n".join(words)


@pytest.mark.guest
@pytest.mark.parametrize(
    "port", sorted({port for port, _, _ in NETDEVS if not port.startswith("vde") and "example" not in port})
)
def test_the_installed_qemu_takes_it(port: str, tmp_path: Path) -> None:
    text = port.replace("/tmp/", f"{tmp_path}/").replace("10.0.0.", "127.0.0.").replace("fd00::1", "::1")
    kind = socket.SOCK_DGRAM if "udp" in port else socket.SOCK_STREAM
    if "mcast" not in text:
        for small in (":5", ":1:", ":2"):
            if small in text.partition(",")[0]:
                tail = ":" if small.endswith(":") else ""
                text = text.replace(small, f":{free_port(kind)}{tail}", 1)
    spec = parse_port(text)
    found = netdev_arguments(spec, qemu_version())
    status, words = start_qemu(found.arguments[1], tmp_path)
    assert (status, words) == (0, ""), found.arguments[1]


@pytest.mark.guest
@pytest.mark.parametrize("port", ["stream:unix:/a", "dgram:unix:/a:/b", "socket:listen:127.0.0.1:5"])
def test_the_installed_qemu_takes_a_descriptor(port: str, tmp_path: Path) -> None:
    kind = socket.SOCK_DGRAM if port.startswith("dgram") else socket.SOCK_STREAM
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(sock) for sock in socket.socketpair(socket.AF_UNIX, kind))
        found = netdev_arguments(parse_port(port), qemu_version(), fd=theirs.fileno())
        assert start_qemu(found.arguments[1], tmp_path, theirs.fileno()) == (0, "")
        assert ours.fileno() >= 0


@pytest.mark.guest
@pytest.mark.parametrize("name", ["plain.sock", "with,comma.sock", "with space=.sock"])
def test_the_installed_qemu_understands_the_path(name: str, tmp_path: Path) -> None:
    """It listens where vbackend would dial: the file is there, under that name."""
    path = tmp_path / name
    spec = StreamSpec("stream:unix:path", PortOptions(), UnixAddress(os.fspath(path)), dial=True)
    found = netdev_arguments(spec, qemu_version())
    command = [QEMU, "-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"]
    with subprocess.Popen(
        [*command, "-netdev", found.arguments[1]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as qemu:
        try:
            assert qemu.stdin is not None
            assert qemu.stdout is not None
            qemu.stdin.write('{"execute":"qmp_capabilities"}\n')
            qemu.stdin.flush()
            assert "QMP" in qemu.stdout.readline()
            assert "return" in qemu.stdout.readline(), "it reads commands when all is set up"
            wait_until(path.is_socket, "its socket: a thread of its own binds it")
        finally:
            qemu.kill()
