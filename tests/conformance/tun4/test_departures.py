"""Where vbackend departs from the driver of 2006 on purpose: V1 to V6."""

import errno

import pytest

from tests.conformance.tun4.rules import rule
from tests.conformance.tun4.units import counted, ipv4, ipv6, none_of, open_unit, outcome
from tests.support.pcapng import parse
from vbackend.capture import pcapng
from vbackend.dataplane import NativeCapture
from vbackend.tun.driver import TunDriver
from vbackend.tun.headers import encode
from vbackend.tun.vocabulary import Header


@rule("V1")
def test_v1_output_reports_its_errors(driver: TunDriver) -> None:
    unit = driver.create(0)
    assert outcome(lambda: unit.output(ipv4())) == errno.EHOSTDOWN
    open_unit(driver, 1)
    assert outcome(lambda: driver.unit(1).output(b"\x50" + bytes(20))) == errno.EAFNOSUPPORT
    assert counted(unit, "oerrors") == counted(driver.unit(1), "oerrors") == (1,)


@rule("V2")
def test_v2_a_full_queue_is_enobufs(driver: TunDriver) -> None:
    unit, _ = open_unit(driver, queue=0)
    assert outcome(lambda: unit.output(ipv4())) == errno.ENOBUFS


@rule("V3", "V4")
@pytest.mark.parametrize("header", ["none", "sockaddr"])
def test_v3_v4_a_write_of_ipv6_is_accepted_and_captured_as_such(driver: TunDriver, header: Header) -> None:
    unit, file = open_unit(driver, header=header)
    capture = NativeCapture(1)
    unit.capture(capture)
    file.write(encode(header, ipv6(), family=6))
    assert unit.input() == (6, ipv6())
    head = pcapng.head("test", [pcapng.Interface("tun0", "", pcapng.LinkType.NULL)], 262_144, None)
    (packet,) = parse(head + capture.read(1 << 20)).packets
    assert packet.data == bytes([24, 0, 0, 0]) + ipv6()


@rule("V5")
@pytest.mark.parametrize("header", ["none", "sockaddr", "null", "loop", "pi", "ether"])
def test_v5_a_write_of_nothing(driver: TunDriver, header: Header) -> None:
    unit, file = open_unit(driver, header=header)
    assert outcome(lambda: file.write(encode(header, ipv4(), family=4)[:-28])) == errno.EIO
    assert counted(unit, "ierrors") == (1,)
    assert none_of(unit, "ierrors")


@rule("V6")
@pytest.mark.parametrize("nibble", range(16))
def test_v6_without_a_header_the_version_nibble_decides(driver: TunDriver, nibble: int) -> None:
    unit, file = open_unit(driver)
    packet = bytes([nibble << 4]) + bytes(19)
    assert outcome(lambda: file.write(packet)) == (0 if nibble in (4, 6) else errno.EAFNOSUPPORT)
    assert unit.input() == ((nibble, packet) if nibble in (4, 6) else None)
