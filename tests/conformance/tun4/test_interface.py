"""The interface face, where the network stack is: rules A and T."""

import errno
from ipaddress import IPv4Address, IPv6Address

import pytest

from tests.conformance.tun4.rules import rule
from tests.conformance.tun4.units import (
    LOCAL,
    LOCAL6,
    PEER,
    PEER6,
    counted,
    ipv4,
    ipv6,
    none_of,
    open_unit,
    outcome,
    polls,
)
from tests.support.pcapng import CapturedPacket, parse
from vbackend.capture import pcapng
from vbackend.dataplane import NativeCapture
from vbackend.tun.driver import AF_INET, AF_INET6, AF_UNSPEC, Interface, TunDriver
from vbackend.tun.vocabulary import SYSTEMS, Address, IfAddr, IfFlag, IfIoctl, System, TunFlag

UP = IfFlag.UP | IfFlag.RUNNING
SIN = bytes([16, 2, 0, 0]) + PEER.packed + bytes(8)
SIN6 = bytes([28, 24, 0, 0, 0, 0, 0, 0]) + PEER6.packed + bytes(4)


def captured(capture: NativeCapture) -> list[CapturedPacket]:
    head = pcapng.head("test", [pcapng.Interface("tun0", "", pcapng.LinkType.NULL)], 262_144, None)
    return parse(head + capture.read(1 << 20)).packets


# --- addresses, MTU, flags ---


@rule("A1")
@pytest.mark.parametrize(("local", "peer"), [(LOCAL, PEER), (LOCAL6, PEER6)])
def test_a1_addresses_bring_it_up(driver: TunDriver, local: Address, peer: Address) -> None:
    unit = driver.create(0)
    unit.ifioctl(IfIoctl.SIOCSIFADDR, local)
    assert unit.if_flags == UP | IfFlag.POINTOPOINT
    assert unit.flags == TunFlag.INITED | TunFlag.IASET
    unit.ifioctl(IfIoctl.SIOCSIFDSTADDR, peer)
    assert unit.flags == TunFlag.INITED | TunFlag.IASET | TunFlag.DSTADDR
    assert unit.addresses == (IfAddr(local, peer),)
    unit.set_address(type(local)(0))
    unit.set_peer(type(local)(0))
    assert unit.flags == TunFlag.INITED


@rule("A1")
def test_a1_a_zero_address_ends_ready_and_the_next_begins_it(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    unit.output(ipv4())
    unit.set_address(IPv4Address(0))
    assert outcome(lambda: unit.output(ipv4())) == errno.EHOSTDOWN
    assert outcome(file.read) == errno.EHOSTDOWN
    unit.set_address(LOCAL6)
    assert file.read() == ipv4()


@rule("A1")
def test_a1_the_broadcast_address_changes_nothing(driver: TunDriver) -> None:
    unit = driver.create(0)
    assert outcome(lambda: unit.set_broadcast(IPv4Address("10.7.0.255"))) == errno.EADDRNOTAVAIL
    unit.set_address(LOCAL)
    unit.set_flags(0)
    before = unit.flags, unit.if_flags
    unit.ifioctl(IfIoctl.SIOCSIFBRDADDR, IPv4Address("10.7.0.255"))
    assert (unit.flags, unit.if_flags) == before


@rule("A2")
@pytest.mark.parametrize(
    ("tunmtu", "mtu", "code"),
    [
        (1500, 575, errno.EINVAL),
        (1500, 576, 0),
        (1500, 1500, 0),
        (1500, 1501, errno.EINVAL),
        (9000, 9000, 0),
        (9000, 9001, errno.EINVAL),
        (65535, 65535, 0),
    ],
)
def test_a2_mtu(driver: TunDriver, tunmtu: int, mtu: int, code: int) -> None:
    unit = driver.create(0, tunmtu=tunmtu)
    unit.set_mtu(1000)
    assert outcome(lambda: unit.ifioctl(IfIoctl.SIOCSIFMTU, mtu)) == code
    assert unit.mtu == (1000 if code else mtu)


@rule("A2")
def test_a2_tunmtu_is_1500_or_more(driver: TunDriver) -> None:
    assert [outcome(driver.create, 0, tunmtu=mtu) for mtu in (1499, 65536)] == [errno.EINVAL] * 2


@rule("A3")
def test_a3_multicast_and_flags_are_accepted(driver: TunDriver) -> None:
    unit = driver.create(0)
    groups = {IPv4Address("224.0.0.1"), IPv6Address("ff02::1")}
    for group in groups:
        unit.ifioctl(IfIoctl.SIOCADDMULTI, group)
    assert unit.groups == groups
    for group in groups:
        unit.ifioctl(IfIoctl.SIOCDELMULTI, group)
    assert not unit.groups
    assert outcome(lambda: unit.ifioctl(IfIoctl.SIOCADDMULTI, b"\x01\0\x5e\0\0\1")) == errno.EAFNOSUPPORT
    unit.ifioctl(IfIoctl.SIOCSIFFLAGS, IfFlag.UP | IfFlag.DEBUG)
    assert unit.if_flags == IfFlag.POINTOPOINT | IfFlag.UP | IfFlag.DEBUG


@rule("A3")
@pytest.mark.parametrize("request_", [0, 0xC0206911, 0x8004667E])
def test_a3_any_other_request_is_einval(driver: TunDriver, request_: int) -> None:
    unit = driver.create(0)
    assert outcome(lambda: unit.ifioctl(request_, 0)) == errno.EINVAL


# --- output ---


@rule("T1", "V1")
@pytest.mark.parametrize("lacks", ["open", "address", "both"])
def test_t1_output_when_not_ready(driver: TunDriver, lacks: str) -> None:
    unit = driver.create(0)
    if lacks != "open" and lacks != "both":
        driver.open(0)
    if lacks == "open":
        unit.set_address(LOCAL)
    capture = NativeCapture(1)
    unit.capture(capture)
    assert outcome(lambda: unit.output(ipv4())) == errno.EHOSTDOWN
    assert (unit.queue_len, counted(unit, "oerrors", "opackets")) == (0, (1, 0))
    assert not captured(capture)


@rule("T2")
def test_t2_what_the_queue_drops_is_captured_and_never_the_sockaddr(driver: TunDriver) -> None:
    unit, file = open_unit(driver, header="sockaddr", queue=1)
    capture = NativeCapture(1)
    unit.capture(capture)
    sent = [(ipv4(), None), (ipv6(), "dropped: queue-full"), (ipv4(number=1), "dropped: queue-full")]
    assert [outcome(unit.output, packet) for packet, _ in sent] == [
        0,
        errno.ENOBUFS,
        errno.ENOBUFS,
    ]
    families = [bytes([2, 0, 0, 0]), bytes([24, 0, 0, 0]), bytes([2, 0, 0, 0])]
    seen = [(packet.data, packet.direction, packet.comment) for packet in captured(capture)]
    expected = [(f + packet, "out", why) for f, (packet, why) in zip(families, sent, strict=True)]
    assert seen == expected
    assert file.read()[16:] == ipv4()


@rule("T2", "T3")
def test_t2_a_family_that_is_refused_is_captured_too(driver: TunDriver) -> None:
    unit, _ = open_unit(driver)
    capture = NativeCapture(1)
    unit.capture(capture)
    assert outcome(lambda: unit.output(b"appletalk", 16)) == errno.EAFNOSUPPORT
    (packet,) = captured(capture)
    assert packet.data == bytes([16, 0, 0, 0]) + b"appletalk"
    assert packet.comment == "dropped: not-ip"


def _output(unit: Interface, family: int, packet: bytes, destination: Address | None) -> None:
    unit.output(packet, family, destination)


@rule("T3")
@pytest.mark.parametrize(
    ("family", "packet", "destination", "head"),
    [
        (AF_INET, ipv4(), PEER, SIN),
        (AF_INET6, ipv6(), PEER6, SIN6),
        (AF_INET, ipv4(to=PEER), None, SIN),
        (AF_UNSPEC, b"anything", PEER, b""),
        (AF_INET, b"not IP at all", PEER, SIN),
    ],
)
def test_t3_prepaddr(
    driver: TunDriver, family: int, packet: bytes, destination: Address | None, head: bytes
) -> None:
    unit, file = open_unit(driver)
    _output(unit, family, packet, destination)
    file.ioctl("TUNSLMODE", 1)
    _output(unit, family, packet, destination)
    assert file.read_batch() == [packet, head + packet]


@rule("T3")
@pytest.mark.parametrize("system", SYSTEMS)
def test_t3_the_numbers_of_four_systems(driver: TunDriver, system: System) -> None:
    unit, file = open_unit(driver, header="sockaddr", system=system)
    unit.output(ipv6())
    number = {"netbsd": 24, "freebsd": 28, "darwin": 30, "linux": 10}[system]
    assert file.read()[:2] == (number.to_bytes(2, "little") if system == "linux" else bytes([28, number]))
    for known in (24, 28, 30, 10):
        unit.output(ipv6(), known)
    assert outcome(lambda: unit.output(ipv6(), 7)) == errno.EAFNOSUPPORT


@rule("T4", "V2")
def test_t4_a_full_queue_collides(driver: TunDriver) -> None:
    unit, file = open_unit(driver, queue=2)
    codes = [outcome(unit.output, ipv4(number=number)) for number in range(4)]
    assert codes == [0, 0, errno.ENOBUFS, errno.ENOBUFS]
    assert counted(unit, "opackets", "collisions", "drops", "oerrors") == (2, 2, 2, 0)
    assert file.read_batch() == [ipv4(number=0), ipv4(number=1)]
    unit.output(ipv4())
    unit.set_queue_limit(1)
    assert outcome(lambda: unit.output(ipv4())) == errno.ENOBUFS


@rule("T5")
def test_t5_bytes_are_counted_with_the_header(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    unit.output(ipv4(100))
    assert counted(unit, "opackets", "obytes") == (1, 100)
    file.ioctl("TUNSLMODE", 1)
    unit.output(ipv4(100))
    unit.output(ipv6(100))
    assert counted(unit, "opackets", "obytes") == (3, 100 + 116 + 128)
    assert none_of(unit, "opackets", "obytes")


@rule("T6", "P1")
def test_t6_pollers_see_it(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    before = polls(file)
    unit.output(ipv4())
    assert polls(file) & ~before == 0x1 | 0x40
