"""Real taps, tuns and bridges: made as asked, and the namespace as it was when they are closed."""

import asyncio
import os
import select
import struct
from collections.abc import AsyncIterator
from functools import reduce
from operator import or_
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.netns import Namespace, differences, namespace, namespaces_of_threads, netns
from tests.support.qemu_peers import eventually
from vbackend.errors import ConfigError, HostError
from vbackend.fds import OwnedFd
from vbackend.host import tap as tap_module
from vbackend.host.device import Offloads, header_length
from vbackend.host.journal import Journal
from vbackend.host.setup import set_up
from vbackend.host.tap import HostDevices, OpenDevice
from vbackend.ports.parse import parse_port
from vbackend.ports.spec import TapSpec, TunSpec

__all__ = ["netns"]

pytestmark = pytest.mark.root

USER = 4242


@pytest_asyncio.fixture
async def devices(netns: Namespace, tmp_path: Path) -> AsyncIterator[HostDevices]:  # noqa: ARG001 (closed before it goes)
    devices = HostDevices(Journal(tmp_path))
    yield devices
    await devices.close_all()
    assert not list(tmp_path.iterdir()), "journals are gone when nothing is left"


async def opened(devices: HostDevices, text: str, netns: Namespace) -> OpenDevice:
    spec = parse_port(f"{text},netns={netns.name}")
    if isinstance(spec, TapSpec):
        return await devices.open_tap(spec)
    assert isinstance(spec, TunSpec)
    return await devices.open_tun(spec)


def hand_on(device: OpenDevice) -> OwnedFd:
    """What the engine does: the descriptor is somebody else's now."""
    return OwnedFd(device.fd.detach())


def tun_facts(netns: Namespace, ifname: str) -> dict[str, object]:
    facts = netns.links()[ifname]["linkinfo"]["info_data"]
    assert isinstance(facts, dict)
    return facts


async def test_a_tap_with_everything(devices: HostDevices, netns: Namespace) -> None:
    before = netns.state()
    text = f"tap:tap0,addr=10.0.0.1/24,addr=fd00::1/64,mtu=9000,mac=52:54:00:00:00:01,owner={USER}"
    device = await opened(devices, text, netns)
    link = netns.links()["tap0"]
    assert (device.ifname, device.ifindex, device.netns) == ("tap0", link["ifindex"], netns.name)
    assert (device.mac, device.mtu) == (link["address"], link["mtu"]) == ("52:54:00:00:00:01", 9000)
    assert (device.created, device.vnet_hdr) == (True, True)
    assert {"UP", "LOWER_UP"} <= set(link["flags"])
    facts = tun_facts(netns, "tap0")
    assert (facts["type"], facts["pi"], facts["vnet_hdr"], facts["user"]) == ("tap", False, True, USER)
    assert netns.addresses("tap0") == {"10.0.0.1/24", "fd00::1/64"}
    assert "tentative" not in netns.ip("-6", "address", "show", "scope", "global")
    await devices.close(device)
    assert not differences(before, netns.state())


async def test_a_tap_without_offloads_carries_complete_frames(devices: HostDevices, netns: Namespace) -> None:
    device = await opened(devices, "tap:tap0,addr=10.0.0.1/24,offloads=off", netns)
    netns.ip("neigh", "add", "10.0.0.2", "lladdr", "52:54:00:00:00:02", "dev", "tap0", "nud", "permanent")
    netns.run("ping", "-c", "1", "-W", "0.05", "-p", "a5", "10.0.0.2", check=False)
    poll = select.poll()
    poll.register(device.fd.fileno(), select.POLLIN)
    while poll.poll(5000):
        frame = os.read(device.fd.fileno(), 65_536)
        if frame[12:14] == b"\x08\x00":
            checksum = sum(struct.unpack("!10H", frame[14:34]))
            assert (checksum & 0xFFFF) + (checksum >> 16) == 0xFFFF, "the IP header's is complete"
            assert frame[:6] == bytes.fromhex("525400000002")
            assert frame.endswith(b"\xa5" * 16)
            return
    pytest.fail("the ping did not come out of the tap")


async def test_a_tun_is_point_to_point(devices: HostDevices, netns: Namespace) -> None:
    before = netns.state()
    text = "tun:tun0,addr=10.0.0.1,peer=10.0.0.2,addr=fd00::1,peer=fd00::2,mtu=1400"
    device = await opened(devices, text, netns)
    assert (device.created, device.vnet_hdr, device.mtu, device.mac) == (True, False, 1400, "")
    facts = tun_facts(netns, "tun0")
    assert (facts["type"], facts["pi"], facts["vnet_hdr"]) == ("tun", False, False)
    assert netns.addresses("tun0") == {"10.0.0.1 peer 10.0.0.2/32", "fd00::1 peer fd00::2/128"}
    for peer in ("10.0.0.2", "fd00::2"):
        assert "dev tun0" in netns.ip("route", "get", peer)
    await devices.close(device)
    assert not differences(before, netns.state())


async def test_a_tun_without_peer_has_its_prefix(devices: HostDevices, netns: Namespace) -> None:
    await opened(devices, "tun:tun0,addr=10.0.0.1/24", netns)
    assert netns.addresses("tun0") == {"10.0.0.1/24"}


async def test_ipv6_is_turned_on_where_the_host_has_it_off(devices: HostDevices, netns: Namespace) -> None:
    netns.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    netns.ip("tuntap", "add", "dev", "old0", "mode", "tun")
    before = netns.state()
    ours = await opened(devices, "tun:tun0,addr=fd00::1,peer=fd00::2", netns)
    theirs = await opened(devices, "tun:old0,addr=fd01::1,peer=fd01::2", netns)
    assert netns.addresses("tun0") == {"fd00::1 peer fd00::2/128"}
    assert netns.addresses("old0") == {"fd01::1 peer fd01::2/128"}
    await devices.close(ours)
    await devices.close(theirs)
    assert netns.run("sysctl", "-n", "net.ipv6.conf.old0.disable_ipv6").strip() == "1"
    assert not differences(before, netns.state())


async def test_the_bridge_is_made_has_the_address_and_goes_with_its_last_tap(
    devices: HostDevices, netns: Namespace
) -> None:
    before = netns.state()
    first = await opened(devices, "tap:tap0,bridge=br0,addr=10.0.0.1/24", netns)
    mac = netns.links()["br0"]["address"]
    second = await opened(devices, "tap:tap1,bridge=br0,addr=10.0.0.1/24", netns)
    links = netns.links()
    assert links["tap0"]["master"] == links["tap1"]["master"] == "br0"
    assert links["br0"]["address"] == mac, "guests keep their neighbour entry when taps come and go"
    assert "UP" in links["br0"]["flags"]
    assert (netns.addresses("br0"), netns.addresses("tap0")) == ({"10.0.0.1/24"}, set())
    engine = hand_on(first)
    await devices.close(first)
    assert "tap0" not in netns.links()
    assert netns.addresses("br0") == {"10.0.0.1/24"}
    await devices.close(second)
    assert not differences(before, netns.state())
    engine.close()


async def test_a_bridge_that_was_there_stays(devices: HostDevices, netns: Namespace) -> None:
    netns.ip("link", "add", "br0", "address", "52:54:00:00:00:0b", "type", "bridge")
    netns.run(
        "sysctl", "-qw", "net.ipv6.conf.br0.disable_ipv6=1"
    )  # no link-local address with its first port
    netns.ip("link", "set", "br0", "up")
    netns.ip("address", "add", "10.0.0.9/24", "dev", "br0")
    before = netns.state()
    device = await opened(devices, "tap:tap0,bridge=br0,addr=10.0.0.1/16,addr=10.0.0.9/24", netns)
    assert netns.addresses("br0") == {"10.0.0.9/24", "10.0.0.1/16"}
    await devices.close(device)
    after = netns.state()
    assert netns.addresses("br0") == {"10.0.0.9/24"}
    assert not differences(before, after)


async def test_our_bridge_waits_for_others_to_leave(
    devices: HostDevices, netns: Namespace, tmp_path: Path
) -> None:
    before = netns.state()
    device = await opened(devices, "tap:tap0,bridge=br0", netns)
    netns.ip("tuntap", "add", "dev", "other0", "mode", "tap")
    netns.ip("link", "set", "other0", "master", "br0")
    await devices.close(device)
    assert "br0" in netns.links()
    await devices.close_all()
    assert len(list(tmp_path.glob("*.journal"))) == 1, "what is left to do stays written down"
    netns.ip("link", "delete", "other0")
    await HostDevices(Journal(tmp_path)).sweep()
    assert not differences(before, netns.state())


async def test_a_bridge_of_another_is_not_ours_to_remove(devices: HostDevices, netns: Namespace) -> None:
    device = await opened(devices, "tap:tap0,bridge=br0", netns)
    netns.ip("link", "delete", "br0")
    netns.ip("link", "add", "br0", "type", "bridge")
    await devices.close(device)
    assert "br0" in netns.links()


@pytest.mark.parametrize(("flag", "is_on"), [("", True), (",offloads=on", True), (",offloads=off", False)])
async def test_offloads_of_a_tap(devices: HostDevices, netns: Namespace, flag: str, is_on: bool) -> None:
    device = await opened(devices, f"tap:tap0{flag}", netns)
    assert (device.created, device.vnet_hdr, bool(device.offloads)) == (True, is_on, is_on)
    assert tun_facts(netns, "tap0")["vnet_hdr"] is is_on
    assert not is_on or header_length(device.fd) == 12
    assert features(netns, "tap0") == device.offloads
    await devices.close(device)


def features(netns: Namespace, ifname: str) -> Offloads:
    """What the kernel says that it leaves to the device."""
    said = {line.strip() for line in netns.run("ethtool", "-k", ifname).splitlines()}
    names = {
        "tx-checksum-ip-generic": Offloads.CSUM,
        "tx-tcp-segmentation": Offloads.TSO4,
        "tx-tcp6-segmentation": Offloads.TSO6,
        "tx-tcp-ecn-segmentation": Offloads.TSO_ECN,
        "tx-udp-segmentation": Offloads.USO4 | Offloads.USO6,
    }
    found = [flags for name, flags in names.items() if f"{name}: on" in said]
    return reduce(or_, found, Offloads(0))


@pytest.mark.parametrize("flag", [",offloads=off", ",offloads=on"])
async def test_a_premade_tap_is_left_as_it_was(devices: HostDevices, netns: Namespace, flag: str) -> None:
    netns.ip("link", "add", "br0", "address", "52:54:00:00:00:0b", "type", "bridge")
    netns.ip("tuntap", "add", "dev", "tap0", "mode", "tap", "user", str(USER))
    before = netns.state()
    text = f"tap:tap0,mtu=1400,mac=52:54:00:00:00:01,bridge=br0{flag}"
    device = await opened(devices, text, netns)
    link = netns.links()["tap0"]
    assert (link["mtu"], link["address"], link["master"]) == (1400, "52:54:00:00:00:01", "br0")
    is_on = flag.endswith("on")
    assert (device.created, device.vnet_hdr) == (False, is_on)
    assert header_length(device.fd) == (12 if is_on else 10)
    engine = hand_on(device)
    if is_on:  # its header is put back when the engine has let go
        asyncio.get_running_loop().call_later(0.05, engine.close)
    else:
        engine.close()
    await devices.close(device)
    assert not differences(before, netns.state())
    assert features(netns, "tap0") == Offloads(0)
    device = await opened(devices, "tap:tap0,addr=10.0.0.1/24,addr=fd00::1/64", netns)
    assert netns.addresses("tap0") == {"10.0.0.1/24", "fd00::1/64"}
    await devices.close(device)
    assert not differences(before, netns.state())


@pytest.mark.parametrize("theirs", [(), ("pi",)], ids=["bare", "packet information"])
@pytest.mark.parametrize("ours", ["", ",pi"], ids=["opened bare", "opened with it"])
async def test_a_premade_tun_is_left_as_it_was(
    devices: HostDevices, netns: Namespace, theirs: tuple[str, ...], ours: str
) -> None:
    """Who uses it next finds the packet information where it was."""
    netns.ip("tuntap", "add", "dev", "tun0", "mode", "tun", *theirs)
    before = netns.state()
    spec = parse_port(f"tun:tun0,netns={netns.name},addr=10.0.0.1,peer=10.0.0.2{ours}")
    assert isinstance(spec, TunSpec)
    device = await devices.open_tun(spec)
    assert netns.links()["tun0"]["linkinfo"]["info_data"]["pi"] is (ours == ",pi")
    await devices.close(device)
    assert differences(before, netns.state()) == []


async def test_what_somebody_changed_after_us_is_theirs(devices: HostDevices, netns: Namespace) -> None:
    netns.ip("tuntap", "add", "dev", "tap0", "mode", "tap")
    device = await opened(devices, "tap:tap0,mtu=1400,addr=10.0.0.1/24", netns)
    netns.ip("link", "set", "tap0", "mtu", "1300")
    netns.ip("address", "delete", "10.0.0.1/24", "dev", "tap0")
    await devices.close(device)
    assert netns.links()["tap0"]["mtu"] == 1300


async def test_a_multi_queue_device_can_be_attached(devices: HostDevices, netns: Namespace) -> None:
    netns.ip("tuntap", "add", "dev", "tap0", "mode", "tap", "multi_queue")
    before = netns.state()
    device = await opened(devices, "tap:tap0", netns)
    await devices.close(device)
    after = netns.state()
    for state in (before, after):  # the number of queues that are in use shows only while one is
        for link in state["-d link"]:
            link.get("linkinfo", {}).get("info_data", {}).pop("numqueues", None)
            link.get("linkinfo", {}).get("info_data", {}).pop("numdisabled", None)
    assert not differences(before, after)


@pytest.mark.parametrize(
    ("text", "made", "message"),
    [
        (
            "tap:tap0",
            ("tuntap", "add", "dev", "tap0", "mode", "tun"),
            "exists and is a tun; take another name",
        ),
        (
            "tun:br0",
            ("link", "add", "br0", "type", "bridge"),
            "exists and is no tap or tun; take another name",
        ),
        ("tap:tap0,bridge=lo", (), "lo is a device but no bridge; take another name"),
        (
            "tap:tap0,owner=1",
            ("tuntap", "add", "dev", "tap0", "mode", "tap", "user", "7"),
            "belongs to user 7; leave owner= out",
        ),
        ("tap:tap0,addr=ff02::5/64", (), "cannot add address ff02::5/64 to tap0"),
    ],
)
async def test_refusals_name_the_remedy_and_leave_nothing(
    devices: HostDevices, netns: Namespace, text: str, made: tuple[str, ...], message: str
) -> None:
    if made:
        netns.ip(*made)
    before = netns.state()
    with pytest.raises(HostError, match=message) as raised:
        await opened(devices, text, netns)
    assert "\n" not in str(raised.value)
    assert not differences(before, netns.state())


async def test_a_device_in_use_names_its_user(devices: HostDevices, netns: Namespace) -> None:
    await opened(devices, "tap:tap0", netns)
    with pytest.raises(HostError, match=rf"process {os.getpid()} \(.+\) has it; end that program"):
        await opened(devices, "tap:tap0", netns)


async def test_a_bridge_made_for_a_tap_that_fails_goes(devices: HostDevices, netns: Namespace) -> None:
    before = netns.state()
    with pytest.raises(HostError):
        await opened(devices, "tap:tap0,bridge=br0,addr=ff02::5/64", netns)
    assert not differences(before, netns.state())


async def test_no_such_namespace(devices: HostDevices) -> None:
    spec = parse_port("tap:tap0,netns=vbtest-none")
    assert isinstance(spec, TapSpec)
    with pytest.raises(HostError, match="make it with `ip netns add vbtest-none`"):
        await devices.open_tap(spec)


async def test_a_namespace_that_goes_first(devices: HostDevices, caplog: pytest.LogCaptureFixture) -> None:
    """What was made inside goes with the last descriptor; nothing is left to undo."""
    with namespace() as short_lived:
        device = await opened(devices, "tap:tap0,bridge=br0", short_lived)
    await devices.close(device)
    assert not caplog.records


@pytest.mark.parametrize(
    "text",
    ["tun:tun0,peer=10.0.0.2", "tun:tun0,addr=10.0.0.1,peer=fd00::2", "tap:tap0,addr=fd00::1/64,mtu=1000"],
)
async def test_addresses_that_cannot_be(devices: HostDevices, netns: Namespace, text: str) -> None:
    before = netns.state()
    with pytest.raises(ConfigError, match="give"):
        await opened(devices, text, netns)
    assert not differences(before, netns.state())


async def test_cancelled_while_it_opens(
    devices: HostDevices, netns: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = netns.state()
    loop = asyncio.get_running_loop()
    make = set_up

    def cancelling(*arguments: object) -> object:
        loop.call_soon_threadsafe(opening.cancel)
        return make(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tap_module, "set_up", cancelling)
    opening = asyncio.create_task(opened(devices, "tap:tap0,bridge=br0", netns))
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not differences(before, netns.state())


async def test_the_process_stays_in_its_namespace(devices: HostDevices, netns: Namespace) -> None:
    """No thread may be left in another namespace: the engine's would make its sockets there."""
    own = Path("/proc/self/ns/net").stat().st_ino
    await opened(devices, "tap:tap0", netns)
    await devices.close_all()
    await eventually(lambda: namespaces_of_threads() == {own}, "the threads that were inside have ended")
