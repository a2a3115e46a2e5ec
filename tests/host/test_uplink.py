"""What is special about a lab of an ordinary user's: its own namespaces, and slirp4netns that leads out of them."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.nat import FAR, GATEWAY, GUEST, HOST, USER, Lab, Place, guest, lab, place, seen_by, started
from tests.support.netns import Namespace, differences
from tests.support.privileges import as_user
from tests.support.run import wait_until
from tests.support.stacks import socket_in, transfer
from vbackend.host.uplink import HOST_LOOPBACK, RESOLVER

__all__ = ["place"]

pytestmark = pytest.mark.root


def children(pid: int, name: str) -> list[int]:
    """The processes below `pid` whose command line has `name`."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if name in Path(f"/proc/{child}/cmdline").read_text():
            found.append(int(child))
        found += children(int(child), name)
    return found


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def helpers(running: Lab) -> tuple[int, int]:
    """The keeper and slirp4netns."""
    (keeper,), (slirp,) = children(running.pid, "keeper.py"), children(running.pid, "slirp4netns")
    return keeper, slirp


def inside(running: Lab, *command: str) -> str:
    """A command with all privileges inside, as the user has it."""
    script = [sys.executable, "-m", "vbackend.host.rootless", str(running.pid), *command]
    # The test's user may be unable to look into the folder of the Python that runs the tests.
    done = subprocess.run(
        [*as_user(USER), *script], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(host: Namespace, client: Namespace, address: str) -> bool:
    """Whether nobody answers at port 8080 there although the host's loopback has a listener."""
    family, loopback = (socket.AF_INET6, "::1") if ":" in address else (socket.AF_INET, "127.0.0.1")
    with (
        socket_in(host, family, socket.SOCK_STREAM) as listener,
        socket_in(client, family, socket.SOCK_STREAM) as source,
    ):
        with suppress(OSError):  # or the lab listens there
            listener.bind((loopback, 8080))
            listener.listen(1)
        source.settimeout(1.5)
        try:
            source.connect((address, 8080))
        except OSError:
            return True
        return False


@pytest.mark.parametrize("kept", [False, True], ids=["closed", "open"])
def test_the_loopback_of_the_host(place: Place, kept: bool) -> None:
    with lab(place, rootless=True, host_loopback=kept) as running, guest(place):
        assert refused(place.host, place.client, "127.0.0.1")
        if kept:
            assert seen_by(place.host, place.client, str(HOST_LOOPBACK), at="127.0.0.1") == "127.0.0.1"
        else:
            for address in (str(HOST_LOOPBACK), "fd00::2"):
                assert refused(place.host, place.client, address)
        running.stop()


def test_the_resolver_is_that_of_the_host(place: Place) -> None:
    """Also one that only listens at the host's loopback."""
    settings = place.folder.parent / "resolv.conf"
    settings.write_text("nameserver 127.0.0.1\n")
    bound = ("sh", "-c", f'mount --bind "{settings}" /etc/resolv.conf && exec "$@"', "sh")
    with (
        lab(place, rootless=True, before=bound) as running,
        guest(place),
        socket_in(place.host, socket.AF_INET, socket.SOCK_DGRAM) as resolver,
        socket_in(place.client, socket.AF_INET, socket.SOCK_DGRAM) as asking,
    ):
        resolver.bind(("127.0.0.1", 53))
        asking.connect((str(RESOLVER), 53))
        asking.send(b"question")
        question, asker = resolver.recvfrom(100)
        resolver.sendto(b"answer", asker)
        assert (question, asking.recv(100)) == (b"question", b"answer")
        running.stop()


def _send_all(sock: socket.socket, data: bytes) -> None:
    with sock:
        sock.settimeout(20)
        sock.sendall(data)


def test_a_lot_of_data_both_ways(place: Place) -> None:
    data = bytes(range(256)) * (64 << 10)  # 16 MiB
    with lab(place, rootless=True) as running, guest(place):
        for address in FAR.values():
            transfer(place.client, place.server, address, data)
        listener = socket_in(place.server, socket.AF_INET, socket.SOCK_STREAM)
        source = socket_in(place.client, socket.AF_INET, socket.SOCK_STREAM)
        with listener, source, ThreadPoolExecutor(1) as pool:
            listener.bind((FAR[4], 8080))
            listener.listen(1)
            source.connect((FAR[4], 8080))
            accepted, _ = listener.accept()
            sent = pool.submit(_send_all, accepted, data)
            received = bytearray()
            while chunk := source.recv(1 << 20):
                received += chunk
            assert received == data
            sent.result()
        running.stop()


def test_it_is_started_again(place: Place) -> None:
    with lab(place, rootless=True) as running, guest(place):
        _, slirp = helpers(running)
        assert running.trouble() is None
        os.kill(slirp, signal.SIGKILL)
        wait_until(
            lambda: running.trouble() == "slirp4netns: it was killed by SIGKILL", "the loss is noticed"
        )
        wait_until(lambda: running.trouble() is None, "there is an uplink again")
        assert helpers(running)[1] != slirp
        for version, address in FAR.items():
            assert seen_by(place.server, place.client, address) == HOST[version]
        running.stop(
            "the lab has no uplink (slirp4netns: it was killed by SIGKILL); another attempt in 1 s\n"
        )


def test_without_its_keeper_it_says_so_and_ends_in_order(place: Place) -> None:
    with lab(place, rootless=True) as running:
        keeper, slirp = helpers(running)
        os.kill(keeper, signal.SIGKILL)
        wait_until(lambda: not is_there(slirp), "it goes with its keeper")
        wait_until(lambda: running.trouble() is not None, "the loss is noticed")
        running.stop("the keeper outside of our namespaces has ended, and its helper with it\n")


def test_killed_it_leaves_nothing(place: Place) -> None:
    before = place.host.state()
    with lab(place, rootless=True) as running:
        keeper, slirp = helpers(running)
        os.kill(running.pid, signal.SIGKILL)
        wait_until(lambda: not is_there(keeper) and not is_there(slirp), "both helpers go")
    assert not differences(before, place.host.state())


def test_the_next_one_goes_where_the_guests_are_still(place: Place) -> None:
    """What a killed one left in the namespace that its guests keep alive is undone there."""
    with lab(place, rootless=True) as first:
        namespace = Path(f"/proc/{first.pid}/ns/net").stat().st_ino
        enter = ["nsenter", "-t", str(first.pid), "-U", "-n", "--preserve-credentials", "sleep", "100"]
        with subprocess.Popen([*as_user(USER), *enter]) as inhabitant:
            try:
                wait_until(
                    lambda: Path(f"/proc/{inhabitant.pid}/ns/net").stat().st_ino == namespace, "it is inside"
                )
                os.kill(first.pid, signal.SIGKILL)
                first.child.wait(20)
                with lab(place, rootless=True, inhabitant=inhabitant.pid) as second, guest(place):
                    assert Path(f"/proc/{second.pid}/ns/net").stat().st_ino == namespace
                    assert inside(second, "nft", "list", "tables").split() == [
                        "table",
                        "inet",
                        "vbackend-lab.lan",
                    ]
                    assert seen_by(place.server, place.client, FAR[4]) == HOST[4]
                    second.stop()
            finally:
                inhabitant.kill()
    assert not list((place.folder / "journal").glob("*"))


def test_a_command_inside_may_do_everything(place: Place) -> None:
    with lab(place, rootless=True) as running:
        inside(running, "ip", "link", "add", "mine", "type", "bridge")
        assert "mine" in running.inside("ip", "-brief", "link")
        assert inside(running, "id", "-u") == f"{USER}\n"
        running.stop()


def test_a_host_that_has_no_default_route(place: Place) -> None:
    """IPv4 reaches its neighbours still; nobody waits for what cannot be reached."""
    for option in ("-4", "-6"):
        place.host.ip(option, "route", "del", "default")
    with lab(place, rootless=True) as running, guest(place):
        assert seen_by(place.server, place.client, "10.9.0.2") == HOST[4]
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            with (
                socket_in(place.client, family, socket.SOCK_STREAM) as source,
                pytest.raises(OSError, match=r"[Uu]nreachable|No route"),
            ):
                source.connect((FAR[version], 8080))
        running.stop()


def test_a_port_that_is_taken(place: Place) -> None:
    with socket_in(place.host, socket.AF_INET, socket.SOCK_STREAM) as other:
        other.bind(("0.0.0.0", 8080))
        other.listen(1)
        nat = {"addr": [GATEWAY[4]], "forward": ["tcp:8080:10.0.0.1:80"]}
        with started(place, rootless=True, nat=nat) as child:
            out, _ = child.communicate("\n", timeout=30)
    assert out.startswith("HostError cannot forward tcp:0.0.0.0:8080: slirp4netns: ")
    assert not (place.folder / "uplink.sock").exists()


def test_forwarded_ports_come_back_too(place: Place) -> None:
    nat = {"addr": [GATEWAY[4]], "forward": ["tcp:127.0.0.1:8080:10.0.0.1:80"]}
    with lab(place, rootless=True, nat=nat) as running, guest(place):
        os.kill(helpers(running)[1], signal.SIGKILL)
        wait_until(lambda: running.trouble() is not None, "the loss is noticed")
        wait_until(lambda: running.trouble() is None, "there is an uplink again")
        assert seen_by(place.client, place.host, "127.0.0.1", at=GUEST[4], to=80)
        assert refused(place.host, place.server, HOST[4])
        running.stop("another attempt in 1 s\n")
    assert not (place.folder / "uplink.sock").exists()


@pytest.mark.parametrize("inhabitant", [1, os.getpid()])
def test_who_is_in_no_namespace_of_theirs(place: Place, inhabitant: int) -> None:
    with started(place, rootless=True, inhabitant=inhabitant) as child:
        out, _ = child.communicate("\n", timeout=30)
    assert out == (
        f"HostError cannot enter the namespaces of process {inhabitant}: Permission denied; give a process of a lab of "
        "this user\n"
    )
