"""What ports with a tun unit share: the adapter's addresses, the unit's from its specification, and their ends."""

from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from vbackend.backend import Backend
from vbackend.ports.parse import parse_port
from vbackend.ports.unitport import PortWithUnit, link_local, stable_mac
from vbackend.snapshot import UnitSnapshot
from vbackend.tun.vocabulary import IfAddr


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with Backend(name="test") as found:
        await found.start([])
        yield found


async def unit_of(backend: Backend, text: str) -> UnitSnapshot:
    unit = (await backend.add_port(parse_port(text))).unit
    assert unit is not None
    return unit


def port_of(backend: Backend) -> PortWithUnit:
    (port,) = backend._ports.values()
    assert isinstance(port, PortWithUnit)
    return port


def test_a_link_local_address_is_made_from_the_mac() -> None:
    """RFC 4291 appendix A's example."""
    assert link_local(bytes.fromhex("34564789abcd")) == IPv6Address("fe80::3656:47ff:fe89:abcd")
    assert link_local(stable_mac("a")) != link_local(stable_mac("b"))


# (options, mode, addresses without the link-local one, MTU, TUNMTU, link header, family)
UNITS: list[tuple[str, str, list[str], int, int, str, str]] = [
    ("", "pointopoint", [], 1500, 1500, "none", "netbsd"),
    (",mtu=576", "pointopoint", [], 576, 1500, "none", "netbsd"),
    (",mtu=9000,header=loop,family=linux", "pointopoint", [], 9000, 9000, "loop", "linux"),
    (
        ",addr=10.7.0.1,peer=10.7.0.2,addr=fd07::1",
        "pointopoint",
        ["10.7.0.1 -> 10.7.0.2", "fd07::1"],
        1500,
        1500,
        "none",
        "netbsd",
    ),
    (
        ",mode=broadcast,addr=10.7.0.1/24,header=sockaddr",
        "broadcast",
        ["10.7.0.1 broadcast 10.7.0.255"],
        1500,
        1500,
        "sockaddr",
        "netbsd",
    ),
    (",mode=broadcast,addr=10.7.0.0/31", "broadcast", ["10.7.0.0"], 1500, 1500, "none", "netbsd"),
]


@pytest.mark.parametrize(("options", "mode", "addresses", "mtu", "tunmtu", "header", "family"), UNITS)
async def test_a_unit_is_what_its_port_says(
    backend: Backend,
    tmp_path: Path,
    options: str,
    mode: str,
    addresses: list[str],
    mtu: int,
    tunmtu: int,
    header: str,
    family: str,
) -> None:
    unit = await unit_of(backend, f"unit:{tmp_path}/u{options},queue=7")
    own = str(link_local(stable_mac(f"unit {tmp_path}/u")))
    assert list(unit.addresses) == [*addresses, own]
    assert (unit.name, unit.mode, unit.mtu, unit.tunmtu) == ("tun0", mode, mtu, tunmtu)
    assert (unit.header, unit.family, unit.queue_len, unit.queue_limit) == (header, family, 0, 7)
    assert set(unit.flags) - {"DSTADDR", "PREPADDR"} == {"INITED", "IASET"}
    assert ("DSTADDR" in unit.flags) == ("peer" in options)
    assert ("PREPADDR" in unit.flags) == (header == "sockaddr")
    assert {"UP", "RUNNING"} < set(unit.if_flags)
    assert set(unit.counters.values()) == {0}


async def test_its_adapter_has_the_mac_that_is_given(backend: Backend, tmp_path: Path) -> None:
    port = await backend.add_port(parse_port(f"unit:{tmp_path}/u,mac=52:54:00:00:00:77"))
    assert port_of(backend).adapter_mac == bytes.fromhex("525400000077")
    assert port.mac is None  # no frame of it could have another one
    assert port.unit is not None
    assert port.unit.addresses == ("fe80::5054:ff:fe00:77",)


async def test_captures_have_the_family_in_the_order_of_the_reader(backend: Backend, tmp_path: Path) -> None:
    for header, link in (("none", "null"), ("null", "null"), ("loop", "loop"), ("pi", "null")):
        await backend.add_port(parse_port(f"unit:{tmp_path}/u,name=unit,header={header}"))
        assert port_of(backend).capture_link == link
        await backend.remove_port("unit")


async def test_units_have_numbers_of_their_own_and_give_them_back(backend: Backend, tmp_path: Path) -> None:
    for name, number in (("a", 0), ("b", 1), ("c", 2)):
        assert (await unit_of(backend, f"unit:{tmp_path}/{name},name={name}")).name == f"tun{number}"
    await backend.remove_port("b")
    assert (await unit_of(backend, f"unit:{tmp_path}/d,name=d")).name == "tun1"


async def test_a_change_of_the_interface_reaches_the_adapter(backend: Backend, tmp_path: Path) -> None:
    await unit_of(backend, f"unit:{tmp_path}/u,addr=10.7.0.1")
    port = port_of(backend)
    port.interface.add_address(IfAddr(IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")))
    adapter = port._adapter()
    assert IPv4Address("192.0.2.1") in adapter.local
    assert adapter.peers == (IPv4Address("192.0.2.2"),)


async def test_a_peer_that_is_taken_back_is_nobodys_next_hop(backend: Backend, tmp_path: Path) -> None:
    """A zero peer is none (A1): the adapter would ask for 0.0.0.0 instead of the destination."""
    await unit_of(backend, f"unit:{tmp_path}/u,addr=10.7.0.1,peer=10.7.0.2")
    port = port_of(backend)
    assert port._adapter().peers == (IPv4Address("10.7.0.2"),)
    port.interface.set_peer(IPv4Address("0.0.0.0"))
    assert port._adapter().peers == ()


async def test_a_unit_that_somebody_destroyed_goes_with_its_port(backend: Backend, tmp_path: Path) -> None:
    await unit_of(backend, f"unit:{tmp_path}/u,name=unit")
    interface = port_of(backend).interface
    interface.driver.destroy(interface.number)
    await backend.remove_port("unit")
    assert interface.driver.units() == ()
