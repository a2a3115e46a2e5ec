"""The guest image itself, and what drives it: no vbackend is involved."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from tests.support.guest import GuestError, Guests, nic
from tests.support.uml import UmlGuest
from vbackend.errors import VbackendError
from vbackend.images import build_image
from vbackend.images.recipe import find_recipe, load_recipe
from vbackend.qemu.agent import AgentError, CommandTimeoutError, Result

pytestmark = pytest.mark.guest

ALICE, BOB = "52:54:00:00:00:0a", "52:54:00:00:00:0b"


async def test_commands(guests: Guests) -> None:
    """Streams, status, binary data, concurrency, timeouts and a reset, in one guest: booting is what costs."""
    guest = await guests.boot("alice")

    result = await guest.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.status) == (b"out\n", b"err\n", 3)
    assert (await guest.run("kill -TERM $$")).status == 128 + 15
    assert (await guest.check("hostname")).strip() == "alice"
    assert (await guest.run("cat")).stdout == b"", "a command has no stdin unless it is given one"
    assert (await guest.check("printf '%s' 'ü \"quoted\" \\ $HOME\n'")) == 'ü "quoted" \\ $HOME\n'

    every_byte = "".join(f"\\{byte:03o}" for byte in range(256))
    assert (await guest.run(f"printf '{every_byte}'")).stdout == bytes(range(256))
    blob = os.urandom(1 << 20)
    there_and_back = await guest.agent.run("cat; echo end", input=blob, timeout=60)
    assert there_and_back.stdout == blob + b"end\n"
    await guest.check("(while echo more && usleep 10000; do :; done) & echo $! >/tmp/left")
    assert (await guest.run("usleep 100000; kill $(cat /tmp/left)")).status == 0, (
        "it lives on with its output"
    )

    with pytest.raises(GuestError, match=r"'false' ended with 1"):
        await guest.check("false")
    with pytest.raises(GuestError, match="did not succeed within"):
        await guest.wait_until("echo not yet; false", timeout=0.2)

    background = await guest.agent.start("echo started; sleep 1000")
    assert (await asyncio.gather(*(guest.check(f"echo {i}") for i in range(5)))) == [
        f"{i}\n" for i in range(5)
    ]
    await guest.agent.kill(background)
    assert (await guest.agent.wait(background)).status == 128 + 9

    with pytest.raises(CommandTimeoutError, match="more than 1 s") as caught:
        await guest.run("echo before; (sleep 1000; echo never); echo after", timeout=1)
    assert caught.value.result is not None
    assert caught.value.result.stdout == b"before\n"
    await guest.wait_until("! pidof sleep")  # what timed out is dead, its children too

    await guest.check("touch /tmp/before-reset")
    cut_off = await guest.agent.start("sleep 1000")
    await guest.reset()
    with pytest.raises(AgentError, match="reset"):
        await guest.agent.wait(cut_off)
    assert (await guest.run("test -e /tmp/before-reset")).status == 1

    await guest.kill()
    assert guest.qemu.returncode == -9
    with pytest.raises(AgentError, match="port was closed"):
        await guest.run("true")


async def test_programs(guests: Guests) -> None:
    """Every program of the recipe starts, and the kernel has what network tests need."""
    guest = await guests.boot("alice")
    for command, said in {
        "ping -V": "iputils",
        "iperf3 --version": "iperf 3",
        "ethtool --version": "ethtool",
        "tcpdump --version 2>&1": "libpcap",
        "arping --help 2>&1": "ARPing",
        "busybox | head -1": "BusyBox",
        "getent hosts ::1": "localhost",
        "test -x /etc/udhcpc/default.script && udhcpc --help 2>&1": "/etc/udhcpc/default.script",
    }.items():
        assert said in await guest.check(command), command
    for module in load_recipe(find_recipe("small")).modules.available:
        await guest.check(f"modprobe {module} && grep -q '^{module} ' /proc/modules")
    await guest.check(
        "ip link add d0 type dummy && ip link set d0 up"
        " && ip link add link d0 name d0.5 type vlan id 5 && ip link set d0.5 up"
    )
    assert (await guest.ping("127.0.0.1", count=2)).received == 2
    assert (await guest.ping("::1", count=2, size=8000)).lost == 0


async def test_router(artifacts: Path) -> None:
    """BIRD starts and can be asked; packets are forwarded."""
    guests = Guests(await asyncio.to_thread(build_image, "router"), artifacts)
    try:
        guest = await guests.boot("router")
        config = "router id 10.0.0.1; protocol device {}"
        await guest.check(f"mkdir -p /etc/bird && echo '{config}' >/etc/bird/bird.conf && bird")
        await guest.wait_until("birdc show status | grep 'Daemon is up and running'")
        settings = "net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv6.conf.default.forwarding"
        assert await guest.check(f"sysctl -n {settings}") == "1\n1\n1\n"
    finally:
        await guests.close()


async def test_two_guests_joined_by_qemu(guests: Guests) -> None:
    """A socket pair as cable between two guests: ping with any size, IPv6, iperf3, a cable that is unplugged."""
    left, right = socket.socketpair()
    with left, right:
        alice, bob = await asyncio.gather(
            *(
                guests.boot(
                    name,
                    network=nic(f"stream,id=n0,addr.type=fd,addr.str={end.fileno()}", mac),
                    pass_fds=[end.fileno()],
                )
                for name, mac, end in (("alice", ALICE, left), ("bob", BOB, right))
            )
        )
    await asyncio.gather(
        alice.configure(ALICE, ["10.0.0.1/24", "fd00::1/64"], mtu=9000),
        bob.configure(BOB, ["10.0.0.2/24", "fd00::2/64"], mtu=9000),
    )
    assert (await alice.ping("10.0.0.2")).lost == 0
    assert (await alice.ping("10.0.0.2", size=8972, df=True)).lost == 0
    assert (await bob.ping("fd00::1", size=20_000)).lost == 0
    assert (await alice.ping("10.0.0.2", size=8973, df=True, count=1)).received == 0, "too long to stay whole"
    assert (await bob.ping("10.0.0.99", count=1, wait_s=1)).received == 0

    await bob.iperf_server()
    report = await alice.iperf("10.0.0.2", seconds=1)
    assert report["end"]["sum_received"]["bytes"] > 0

    name = await alice.interface(ALICE)
    await alice.qmp.set_link("nic-n0", up=False)
    await alice.wait_until(f"grep -qx 0 /sys/class/net/{name}/carrier")
    await alice.qmp.set_link("nic-n0", up=True)
    await alice.wait_ping("10.0.0.2")


async def test_commands_over_a_serial_line(uml: Path, tmp_path: Path) -> None:
    """User-mode Linux: any bytes, more than its line holds."""
    async with await UmlGuest.boot(uml, tmp_path, name="u") as guest:
        blob = bytes(range(256)) + os.urandom(200_000)
        assert (await guest.agent.run("cat; exit 3", input=blob)) == Result(blob, b"", 3)


async def test_refused_arguments(guests: Guests) -> None:
    """QEMU's own words are in the error."""
    with pytest.raises(VbackendError, match=r"status 1: .*no-such-device"):
        await guests.boot("alice", network=["-device", "no-such-device"])


async def test_guest_that_does_not_boot(guests: Guests) -> None:
    """The error shows the console."""
    with pytest.raises(GuestError, match=r"(?s)did not start within.*--- console"):
        await guests.boot("alice", timeout=0.5)
