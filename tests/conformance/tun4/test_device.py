"""The device face, where a program is: rules R, W and I. Sleeping is in test_waiting.py, polling in test_polling.py."""

import errno
import os
import struct

import pytest

from tests.conformance.tun4.rules import rule
from tests.conformance.tun4.units import LOCAL, counted, ipv4, ipv6, none_of, open_unit, outcome
from tests.support.pcapng import parse
from vbackend.capture import pcapng
from vbackend.dataplane import NativeCapture
from vbackend.tun.driver import TunDriver
from vbackend.tun.headers import encode
from vbackend.tun.vocabulary import HEADERS, SYSTEMS, Header, IfFlag, Ioctl, System, TunFlag


def sockaddr(length: int, family: int, size: int = 16) -> bytes:
    return bytes([length, family]).ljust(size, b"\0")


# --- read ---


@rule("R1")
def test_r1_read_of_what_is_gone_or_not_ready(driver: TunDriver) -> None:
    file = driver.open(0)
    assert outcome(file.read) == errno.EHOSTDOWN
    assert outcome(file.read_batch) == errno.EHOSTDOWN
    driver.unit(0).set_address(LOCAL)
    assert file.read_batch() == []
    driver.destroy(0)
    assert outcome(file.read) == errno.ENXIO


@rule("R2")
@pytest.mark.parametrize("size", [0, 1, 27, 28, 29, -1])
def test_r2_one_read_is_one_packet(driver: TunDriver, size: int) -> None:
    unit, file = open_unit(driver)
    unit.output(ipv4())
    unit.output(ipv4(number=1))
    assert file.read(size) == (ipv4() if size < 0 else ipv4()[:size])
    assert file.read() == ipv4(number=1)
    assert none_of(unit, "opackets", "obytes")


@rule("R2")
def test_r2_readv_fills_one_buffer_after_the_other(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    unit.output(ipv4())
    unit.output(ipv4(number=1))
    head, body, unused = bytearray(20), bytearray(100), bytearray(b"unused")
    assert file.readv([head, body, unused]) == 28
    assert (bytes(head), bytes(body[:8]), bytes(unused)) == (ipv4()[:20], ipv4()[20:], b"unused")
    assert file.readinto(head) == 20
    assert bytes(head) == ipv4(number=1)[:20]
    assert unit.queue_len == 0


@rule("R3")
def test_r3_an_empty_queue_with_nbio(driver: TunDriver) -> None:
    _, file = open_unit(driver, nonblocking=False)
    file.ioctl("FIONBIO", 1)
    assert outcome(file.read) == errno.EWOULDBLOCK
    with pytest.raises(BlockingIOError):
        file.readinto(bytearray(10))


@rule("R5")
def test_r5_a_failed_copy_is_an_input_error(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    unit.output(ipv4())
    readonly = memoryview(bytes(100))
    assert outcome(lambda: file.readv([bytearray(20), readonly])) == errno.EFAULT
    assert counted(unit, "ierrors") == (1,)
    assert (unit.queue_len, outcome(file.read)) == (0, errno.EWOULDBLOCK)


# --- write ---


@rule("W1")
def test_w1_one_write_is_one_packet(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    assert file.write(bytearray(ipv4())) == 28
    assert file.writev([ipv6()[:40], memoryview(ipv6())[40:]]) == 48
    assert [unit.input(), unit.input(), unit.input()] == [(4, ipv4()), (6, ipv6()), None]
    driver.destroy(0)
    assert outcome(lambda: file.write(ipv4())) == errno.ENXIO


@rule("W1")
def test_w1_a_write_needs_no_address(driver: TunDriver) -> None:
    file = driver.open(0)
    file.write(ipv4())
    assert driver.unit(0).input() == (4, ipv4())


@rule("W2", "W4")
@pytest.mark.parametrize(
    ("data", "code", "taken"),
    [
        (sockaddr(16, 2, 15), errno.EIO, None),
        (b"", errno.EIO, None),
        (sockaddr(16, 2) + ipv4(), 0, (4, ipv4())),
        (sockaddr(0, 2) + ipv4(), 0, (4, ipv4())),
        (sockaddr(28, 24, 28) + ipv6(), 0, (6, ipv6())),
        (sockaddr(28, 28, 28) + ipv6(), 0, (6, ipv6())),
        (sockaddr(255, 2, 255) + ipv4(), 0, (4, ipv4())),
        (sockaddr(20, 2, 18), errno.EIO, None),
        (sockaddr(16, 24) + b"as it says", 0, (6, b"as it says")),
        (sockaddr(16, 1) + ipv4(), errno.EAFNOSUPPORT, None),
    ],
)
def test_w2_the_sockaddr(driver: TunDriver, data: bytes, code: int, taken: tuple[int, bytes] | None) -> None:
    unit, file = open_unit(driver, header="sockaddr")
    assert outcome(lambda: file.write(data)) == code
    assert unit.input() == taken


@rule("W3")
@pytest.mark.parametrize("tunmtu", [1500, 9000, 65535])
@pytest.mark.parametrize("header", HEADERS)
def test_w3_more_than_tunmtu_behind_the_header(driver: TunDriver, header: Header, tunmtu: int) -> None:
    unit, file = open_unit(driver, header=header, tunmtu=tunmtu)
    unit.set_mtu(576)  # does not matter
    longest = encode(header, ipv4(tunmtu), family=4)
    assert file.write(longest) == len(longest)
    assert outcome(lambda: file.write(longest + b"!")) == errno.EIO
    assert counted(unit, "ipackets", "ibytes", "ierrors") == (1, tunmtu, 0)


@rule("W4")
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("header", HEADERS)
def test_w4_the_family_selects_the_queue(driver: TunDriver, header: Header, system: System) -> None:
    unit, file = open_unit(driver, header=header, system=system)
    file.write(encode(header, ipv6(), family=6, system=system))
    file.write(encode(header, ipv4(), family=4, system=system))
    assert [unit.input(), unit.input()] == [(6, ipv6()), (4, ipv4())]


@rule("W4")
@pytest.mark.parametrize(
    ("header", "data"),
    [
        ("none", b"\x50" + bytes(30)),
        ("null", struct.pack("=I", 7) + ipv4()),
        ("loop", struct.pack(">I", 7) + ipv4()),
        ("pi", bytes([0, 0, 8, 6]) + ipv4()),
        ("ether", bytes(12) + bytes([0x81, 0]) + ipv4()),
    ],
)
def test_w4_any_other_family(driver: TunDriver, header: Header, data: bytes) -> None:
    unit, file = open_unit(driver, header=header)
    assert outcome(lambda: file.write(data)) == errno.EAFNOSUPPORT
    assert none_of(unit)


@rule("W5")
def test_w5_no_memory_is_enobufs(driver: TunDriver) -> None:
    """What waits for the guest is bounded in bytes as well as in packets."""
    unit, file = open_unit(driver, tunmtu=65535, input_queue=5000)
    packet = ipv4(65535)
    codes = [outcome(lambda: file.write(packet)) for _ in range(1100)]
    assert set(codes) == {0, errno.ENOBUFS}
    assert codes == sorted(codes)
    assert counted(unit, "ipackets") == (codes.count(0),)


@rule("W6")
def test_w6_a_full_input_queue(driver: TunDriver) -> None:
    unit, file = open_unit(driver, input_queue=2)
    packets = [ipv4(100), ipv4(200), ipv4(300), ipv6(100)]
    assert [outcome(file.write, packet) for packet in packets] == [0, 0, errno.ENOBUFS, 0]
    assert counted(unit, "ipackets", "ibytes", "collisions", "input_drops") == (3, 400, 1, 1)
    assert none_of(unit, "ipackets", "ibytes", "collisions", "input_drops")
    unit.input()
    assert file.write(ipv4()) == 28


@rule("W6")
def test_w6_what_is_accepted_is_captured_without_its_header(driver: TunDriver) -> None:
    unit, file = open_unit(driver, header="sockaddr", input_queue=1)
    capture = NativeCapture(1)
    unit.capture(capture)
    for data in (sockaddr(16, 2) + ipv4(), sockaddr(16, 2) + ipv4(), sockaddr(16, 9) + ipv4(), b""):
        outcome(file.write, data)
    head = pcapng.head("test", [pcapng.Interface("tun0", "", pcapng.LinkType.NULL)], 262_144, None)
    packets = parse(head + capture.read(1 << 20)).packets
    assert [(p.data[4:], p.direction, p.comment) for p in packets] == [
        (ipv4(), "in", None),
        (ipv4(), "in", "dropped: queue-full"),
    ]


# --- ioctl ---


@rule("I1")
def test_i1_the_debug_flag_is_one_for_all_units(driver: TunDriver) -> None:
    with driver.open(0) as one, driver.open(1) as other:
        assert one.ioctl("TUNGDEBUG") == 0
        assert one.ioctl("TUNSDEBUG", 7) == 0
        assert other.ioctl("TUNGDEBUG") == driver.tundebug == 7


@rule("I1")
def test_i1_ifmode(driver: TunDriver) -> None:
    both = IfFlag.POINTOPOINT | IfFlag.BROADCAST
    unit, file = driver.create(0), driver.open(0)
    file.ioctl("TUNSIFMODE", IfFlag.BROADCAST | IfFlag.MULTICAST)
    assert unit.if_flags == IfFlag.BROADCAST | IfFlag.MULTICAST
    file.ioctl("TUNSIFMODE", IfFlag.POINTOPOINT)
    assert unit.if_flags == IfFlag.POINTOPOINT
    assert [outcome(file.ioctl, "TUNSIFMODE", mode) for mode in (0, both)] == [errno.EINVAL] * 2
    unit.set_flags(IfFlag.UP)
    assert outcome(lambda: file.ioctl("TUNSIFMODE", IfFlag.BROADCAST)) == errno.EBUSY
    assert outcome(lambda: file.ioctl("TUNSIFMODE", both)) == errno.EINVAL


@rule("I1")
@pytest.mark.parametrize(
    ("request_", "flag"),
    [("TUNSLMODE", TunFlag.PREPADDR), ("FIONBIO", TunFlag.NBIO), ("FIOASYNC", TunFlag.ASYNC)],
)
def test_i1_modes(driver: TunDriver, request_: str, flag: TunFlag) -> None:
    unit, file = driver.create(0), driver.open(0)
    before = unit.flags
    assert file.ioctl(request_, 1) == 0
    assert unit.flags == before | flag
    file.ioctl(Ioctl[request_], 0)
    assert unit.flags == before


@rule("I1")
def test_i1_fionread(driver: TunDriver) -> None:
    unit, file = open_unit(driver)
    found = [file.ioctl("FIONREAD")]
    for size in (100, 200):
        unit.output(ipv4(size))
        found.append(file.ioctl("FIONREAD"))
    for _ in range(2):
        file.read()
        found.append(file.ioctl("FIONREAD"))
    assert found == [0, 100, 100, 200, 0]


@rule("I1")
def test_i1_owner(driver: TunDriver) -> None:
    me, group = os.getpid(), os.getpgrp()
    with driver.open(0) as file:
        for request, value, owner in (
            ("FIOSETOWN", me, me),
            ("TIOCSPGRP", group, -group),
            ("FIOSETOWN", -group, -group),
            ("FIOSETOWN", 0, 0),
        ):
            file.ioctl(request, value)
            assert (file.ioctl("FIOGETOWN"), file.ioctl("TIOCGPGRP")) == (owner, -owner)
        assert outcome(lambda: file.ioctl("TIOCSPGRP", -group)) == errno.EINVAL


@rule("I1")
def test_i1_unknown(driver: TunDriver) -> None:
    with driver.open(0) as file:
        for request in ("TIOCSTI", "", 0, 0x8004745D):
            assert outcome(file.ioctl, request, 1) == errno.ENOTTY
        driver.destroy(0)
        assert {outcome(file.ioctl, r) for r in (*Ioctl, 0)} == {errno.ENXIO}
