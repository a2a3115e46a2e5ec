"""`vbackend run` leaves a host as it found it: stopped in order, killed and started again, or failed half way.

Compared are everything in the namespace, the folder of the socket files, and /run/vbackend, of which each test has
one of its own. And what it does without privileges.
"""

import fcntl
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import pytest

from tests.support.frames import BROADCAST, mac, numbered, stream
from tests.support.netns import Namespace, differences, netns
from tests.support.privileges import as_user
from tests.support.qemu_peers import FakeStreamPeer
from tests.support.run import NotReadyError, Run, vbackend_run, wait_until
from tests.support.stacks import RawPort, socket_in
from vbackend.host.changes import BridgeMade
from vbackend.host.journal import Journal, sweep

__all__ = ["netns"]

pytestmark = pytest.mark.root

NOBODY = 65534


TUN_FOR_ALL = 'mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 && exec "$@"'
PRIVATE_RUN = 'mkdir -p /run/vbackend && mount --bind "$0" /run/vbackend && exec "$@"'


@dataclass(frozen=True, slots=True)
class Place:
    """What must be as before: the namespace, a folder with nothing in it but logs, and /run/vbackend."""

    netns: Namespace
    folder: Path
    journals: Path  # /run/vbackend
    state: dict[str, Any]

    def run(self, *ports: str, name: str = "test") -> AbstractContextManager[Run]:
        prefix = ["unshare", "--mount", "sh", "-c", PRIVATE_RUN, str(self.journals)]
        return vbackend_run(self.folder, *ports, name=name, prefix=prefix)

    def left(self) -> list[str]:
        """What is not as it was, one line each."""
        files = [path.name for path in self.folder.iterdir() if path.suffix != ".log"]
        journals = [path.name for path in self.journals.iterdir()]
        return differences(self.state, self.netns.state()) + sorted(files) + sorted(journals)

    def ports(self) -> tuple[str, ...]:
        """One of each kind that makes something, and a tap that is there already."""
        ns = self.netns.name
        return (
            f"stream:unix:{self.folder}/a,name=a",
            f"stream:unix:{self.folder}/many,name=many,multi",
            f"dgram:unix:{self.folder}/local:{self.folder}/remote,name=d",
            f"tap:t0,netns={ns},bridge=br0,addr=10.0.0.1/24,addr=fd00::1/64",
            f"tap:old0,netns={ns},mtu=1400,mac=52:54:00:00:00:07,addr=10.0.1.1/24",
            f"tun:u0,netns={ns},addr=10.0.2.1,peer=10.0.2.2,addr=fd02::1,peer=fd02::2,mtu=1400",
        )


@pytest.fixture
def place(netns: Namespace, tmp_path: Path) -> Place:
    folder, journals = tmp_path / "folder", tmp_path / "journals"
    folder.mkdir()
    journals.mkdir()
    netns.ip("tuntap", "add", "dev", "old0", "mode", "tap")
    netns.ip("rule", "add", "pref", "7", "table", "7")
    return Place(netns, folder, journals, netns.state())


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, "1"), (signal.SIGINT, "2")])
def test_an_orderly_stop_leaves_nothing(place: Place, number: signal.Signals, workers: str) -> None:
    with place.run("--workers", workers, *place.ports()) as run:
        assert {"t0", "u0", "br0"} <= place.netns.links().keys()
        assert list(place.journals.iterdir())
        assert run.stop(number) == 0, run.log()
        assert not [line for line in run.log().splitlines() if "WARNING" in line or "ERROR" in line]
    assert place.left() == []


async def test_a_stop_while_traffic_runs(place: Place) -> None:
    """Frames from the host, frames from a guest, and a guest that has stopped reading."""
    with (
        place.run(*place.ports()) as run,
        await FakeStreamPeer.connect(f"{place.folder}/a") as talker,
        await FakeStreamPeer.connect(f"{place.folder}/many") as deaf,
        flooding(place.netns, "10.0.1.255"),
    ):
        run.wait_connected("a", "many.1")
        talker.fill(stream(*numbered(BROADCAST, mac(1), 1000, size=1514)))
        run.wait_for(lambda: run.port("many.1").tx.drops.get("queue-full"), "a guest that is overrun")
        assert run.port("old0").rx.frames_in
        assert run.stop() == 0, run.log()
        assert "Traceback" not in run.log()
        await deaf.expect_eof()
        await talker.expect_eof()
    assert place.left() == []


def test_after_a_kill_the_same_arguments_work_and_nothing_is_left(place: Place) -> None:
    with place.run(*place.ports()) as run:
        assert run.stop(signal.SIGKILL) == -signal.SIGKILL
    (journal,) = place.journals.iterdir()
    assert {"a", "many", "local", "test.control", journal.name} <= set(place.left())
    assert "br0" in place.netns.links()
    assert place.netns.links()["old0"]["mtu"] == 1400
    with place.run(*place.ports()) as run:
        assert not journal.exists()
        assert place.netns.links()["old0"]["mtu"] == 1400
        assert place.netns.addresses("br0") == {"10.0.0.1/24", "fd00::1/64"}
        with socket.socket(socket.AF_UNIX) as guest:
            guest.connect(f"{place.folder}/a")
            run.wait_connected("a", "t0", "old0", "u0")
    assert place.left() == []


def test_killed_again_and_again(place: Place) -> None:
    """What was there before the first start is what counts, not what a killed process made of it."""
    for _ in range(2):
        with place.run(*place.ports()) as run:
            run.stop(signal.SIGKILL)
    with place.run(*place.ports()):
        pass
    assert place.left() == []


def test_of_two_starts_at_once_one_takes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that another start has dealt with meanwhile is history: what it lists may have been made anew."""
    dead = Journal(tmp_path)
    dead.record(BridgeMade(netns=None, inode=1, bridge="br0", mac="02:00:00:00:00:01"))
    dead.close()
    (path,) = tmp_path.iterdir()
    lock = fcntl.flock

    def late(file: IO[str], operation: int) -> None:
        path.unlink()
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert sweep(lambda _: pytest.fail("undone twice"), tmp_path) == 0


@pytest.mark.parametrize(
    ("culprit", "status", "named"),
    [
        ("tap:lo,netns={ns}", 1, ("lo", "no tap or tun")),
        ("tap:t9,netns={ns}-none", 1, ("{ns}-none", "ip netns add")),
        ("tap:t9,netns={ns},addr=ff02::5/64", 1, ("ff02::5/64", "t9")),
        ("tap:t9,netns={ns},owner=no-such-user", 2, ("no-such-user", "there is no such user")),
        ("stream:unix:{folder}/busy", 2, ("busy", "in use by process {pid} ")),
        ("stream:unix:{folder}/none/x", 1, ("none/x", "cannot bind")),
        ("dgram:unix:{folder}/busy:{folder}/y", 2, ("busy", "in use by ")),
    ],
)
def test_a_start_that_fails_half_way_leaves_nothing(
    place: Place, culprit: str, status: int, named: tuple[str, ...]
) -> None:
    words = {"ns": place.netns.name, "folder": place.folder, "pid": os.getpid()}
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(f"{place.folder}/busy")
        busy.listen()
        with (
            pytest.raises(NotReadyError) as raised,
            place.run(*place.ports(), culprit.format(**words)),
        ):
            pass
    assert raised.value.status == status, raised.value.log
    *before, line = raised.value.log.splitlines()
    assert all(" INFO port " in each for each in before), raised.value.log
    assert line.startswith("vbackend: ")
    assert all(word.format(**words) in line for word in named), line
    assert place.left() == ["busy"]


def test_a_socket_of_a_living_backend_is_its_own(place: Place) -> None:
    ports = (f"stream:unix:{place.folder}/a,name=a", f"tap:t0,netns={place.netns.name},name=t")
    with place.run(*ports, name="first") as first:
        second = (f"tap:t1,netns={place.netns.name}", f"stream:unix:{place.folder}/a")
        with (
            pytest.raises(NotReadyError, match=f"in use by process {first.pid} ") as raised,
            place.run(*second, name="second"),
        ):
            pass
        assert raised.value.status == 2
        assert "t1" not in place.netns.links()
        with socket.socket(socket.AF_UNIX) as guest:
            guest.connect(f"{place.folder}/a")
            first.wait_connected("a", "t")
    assert place.left() == []


# Without privileges. The process is nobody's, in the namespace, with a /dev/net/tun as other hosts have it: for all.


@pytest.fixture
def theirs(place: Place) -> Iterator[Place]:
    """`place` with a folder of nobody's, which it can reach: pytest keeps its own to itself."""
    with TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, NOBODY)
        yield replace(place, folder=Path(folder))


def as_nobody(netns: Namespace) -> list[str]:
    """The command that becomes another one as nobody."""
    return ["unshare", "--mount", "sh", "-c", TUN_FOR_ALL, "sh", *netns.command(*as_user(NOBODY))]


def premade(ns: Namespace) -> dict[str, Any]:
    """Taps as root makes them for users; returns the namespace's state.

    Without IPv6, which would take an address of its own at the first carrier.
    """
    for ifname, owner, number in (("mine0", NOBODY, 1), ("root0", 0, 2)):
        ns.ip("tuntap", "add", "dev", ifname, "mode", "tap", "user", str(owner))
        ns.run("sysctl", "-qw", f"net.ipv6.conf.{ifname}.disable_ipv6=1")
        ns.ip("address", "add", f"10.0.{number}.1/24", "dev", ifname)
        ns.ip("link", "set", ifname, "up")
    return ns.state()


def assert_as_before(ns: Namespace, before: dict[str, Any]) -> None:
    """The carrier goes some time after its device's last user."""
    wait_until(lambda: "NO-CARRIER" in ns.links()["mine0"]["flags"], "mine0 without carrier")
    assert differences(before, ns.state()) == []


def test_streams_need_no_privilege(theirs: Place) -> None:
    prefix = as_nobody(theirs.netns)
    ports = (f"stream:unix:{theirs.folder}/a", f"stream:unix:{theirs.folder}/b", "stream:tcp:127.0.0.1:4711")
    with vbackend_run(theirs.folder, *ports, prefix=prefix) as run:
        assert privileges(run.pid) == (NOBODY, False)
        with (
            socket.socket(socket.AF_UNIX) as a,
            socket.socket(socket.AF_UNIX) as b,
            socket_in(theirs.netns, socket.AF_INET, socket.SOCK_STREAM) as c,
        ):
            a.connect(f"{theirs.folder}/a")
            b.connect(f"{theirs.folder}/b")
            c.connect(("127.0.0.1", 4711))
            run.wait_connected("a", "b", "tcp-4711")
            data = stream(*numbered(BROADCAST, mac(1), 3))
            a.sendall(data)
            for peer in (b, c):
                peer.settimeout(20)
                assert peer.recv(len(data), socket.MSG_WAITALL) == data
    assert theirs.left() == []


def test_a_tap_of_the_user_needs_no_privilege(theirs: Place) -> None:
    ns = theirs.netns
    before = premade(ns)
    ports = (f"stream:unix:{theirs.folder}/a", "tap:mine0")
    with vbackend_run(theirs.folder, *ports, prefix=as_nobody(ns)) as run:
        assert privileges(run.pid) == (NOBODY, False)
        with socket.socket(socket.AF_UNIX) as guest, RawPort(ns, "mine0") as host:
            guest.connect(f"{theirs.folder}/a")
            run.wait_connected("a", "mine0")
            frames = numbered(BROADCAST, mac(1), 3)
            guest.sendall(stream(*frames))
            assert host.receive(lambda each: each[6:12] == mac(1), 3) == frames
    assert_as_before(ns, before)


@pytest.mark.parametrize(
    ("port", "named"),
    [
        ("tap:new0", ("new0", "CAP_NET_ADMIN", "ip tuntap add dev new0 mode tap user $USER")),
        ("tun:new0", ("new0", "CAP_NET_ADMIN", "ip tuntap add dev new0 mode tun user $USER")),
        ("tap:root0", ("root0", "belongs to user 0", "run as root")),
        ("tap:mine0,mtu=1400", ("mine0", "mtu", "root")),
        ("tap:mine0,addr=10.0.0.9/24", ("mine0", "10.0.0.9/24", "root")),
        ("tap:mine0,bridge=br0", ("br0", "root")),
        ("tap:mine0,netns={ns}", ("{ns}", "CAP_SYS_ADMIN", "root")),
    ],
)
def test_what_needs_privilege_says_which_and_how(theirs: Place, port: str, named: tuple[str, ...]) -> None:
    ns = theirs.netns
    before = premade(ns)
    ports = (f"stream:unix:{theirs.folder}/a", port.format(ns=ns.name))
    with (
        pytest.raises(NotReadyError) as raised,
        vbackend_run(theirs.folder, *ports, prefix=as_nobody(ns)),
    ):
        pass
    assert raised.value.status == 1
    last = raised.value.log.splitlines()[-1]
    assert all(word.format(ns=ns.name) in last for word in named), raised.value.log
    assert_as_before(ns, before)
    assert [path.name for path in theirs.folder.iterdir()] == ["test.log"]


def privileges(pid: int) -> tuple[int, bool]:
    """The user, and whether it may do anything to a network."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    facts = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    network_and_system = (1 << 12) | (1 << 21)  # CAP_NET_ADMIN, CAP_SYS_ADMIN
    return int(facts["Uid"][1]), bool(int(facts["CapPrm"][0], 16) & network_and_system)


@contextmanager
def flooding(ns: Namespace, target: str) -> Iterator[None]:
    """Broadcast datagrams from the namespace, until the block or the device ends."""
    over = threading.Event()

    def flood() -> None:
        with suppress(OSError):  # the device is gone, and its route
            while not over.is_set():
                sock.sendto(bytes(1000), (target, 9))

    with socket_in(ns, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        thread = threading.Thread(target=flood, name="flood")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
