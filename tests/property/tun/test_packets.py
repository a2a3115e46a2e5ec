"""A random life of a unit with its packets, in `TunDriver` and in the naive twin of if_tun.c, compared at every step.

And the link headers, which exist twice: what the engine writes and reads is what `vbackend/tun/headers.py` does.
"""

import errno
import select
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.if_tun import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    EVFILT_READ,
    EVFILT_WRITE,
    POLLIN_ANY,
    POLLOUT_ANY,
    TUN_OPEN,
    Driver,
    Ifqueue,
    Sockaddr,
    Softc,
    Uio,
)
from tests.support.pcapng import parse
from vbackend.capture import pcapng
from vbackend.dataplane import NativeCapture
from vbackend.tun.driver import IFQMAXLEN, Interface, TunDriver
from vbackend.tun.file import TunFile
from vbackend.tun.headers import HeaderError, decode, encode
from vbackend.tun.vocabulary import HEADERS, SYSTEMS, Address, Header, IfIoctl, System

QUEUE, INPUT_QUEUE = 3, 2
DESTINATIONS: dict[int, Address] = {AF_INET: IPv4Address("10.7.0.2"), AF_INET6: IPv6Address("fd07::2")}
HEAD = pcapng.head("test", [pcapng.Interface("tun0", "", pcapng.LinkType.NULL)], 262_144, None)
EVENTS = POLLIN_ANY | POLLOUT_ANY

sizes = st.integers(0, 70) | st.sampled_from([575, 1499, 1500, 1501, 1516, 1517, 1528, 1529])
addresses = st.sampled_from([IPv4Address(0), IPv4Address("10.7.0.2"), IPv6Address(0), IPv6Address("fd07::2")])
likely_heads = st.builds(
    lambda length, family, size: bytes([length, family]).ljust(size, b"\0"),
    st.sampled_from([0, 15, 16, 17, 28, 255]),
    st.sampled_from([0, 1, AF_INET, AF_INET6, 28, 30, 10]),
    st.sampled_from([0, 1, 15, 16, 28]),
)
first_bytes = st.sampled_from([b"\x45", b"\x60", b"\x10", b"\xff"])


class Twins(RuleBasedStateMachine):
    """Unit 0, for which the input queues of the twin are its own."""

    def __init__(self) -> None:
        super().__init__()
        self.twin = Driver()
        self.driver = TunDriver()
        self.unit: Interface | None = None
        self.file: TunFile | None = None
        self.capture = NativeCapture(1)
        self.captured: list[tuple[int, bytes]] = []
        self.read_packets = self.refused = 0

    def teardown(self) -> None:
        self.driver.shut_down()

    # --- life cycle ---

    @initialize(header=st.sampled_from([None, "sockaddr"]))
    def begin(self, header: Header | None) -> None:
        self.create(1500)
        self.set_address("SIOCSIFADDR", IPv4Address("10.7.0.1"))
        self.open(True, header)
        self.set("FIONBIO", 1)

    @rule(tunmtu=st.sampled_from([1500, 9000]))
    def create(self, tunmtu: int) -> None:
        if self.twin.tun_find_unit(0) is not None:
            assert outcome(self.driver.create, 0) == errno.EEXIST
            return
        self.twin.tun_clone_create(0, tunmtu)
        unit = self.driver.create(0, tunmtu=tunmtu, queue=QUEUE, input_queue=INPUT_QUEUE)
        self.is_new(unit, QUEUE, INPUT_QUEUE)

    def is_new(self, unit: Interface, queue: int, input_queue: int) -> None:
        """The interface is a fresh one, though the unit may have been a zombie."""
        if unit is self.unit:
            input_queue = self.twin.ipintrq.ifq_maxlen
        self.unit = unit
        self.softc.tun_if.if_snd.ifq_maxlen = queue
        self.twin.ipintrq, self.twin.ip6intrq = Ifqueue(input_queue), Ifqueue(input_queue)
        self.capture = NativeCapture(1)
        unit.capture(self.capture)
        self.captured, self.read_packets, self.refused = [], 0, 0

    @rule()
    def destroy(self) -> None:
        tp = self.twin.tun_find_unit(0)
        code = errno.ENXIO if tp is None else self.twin.tun_clone_destroy(tp)
        assert outcome(self.driver.destroy, 0) == code
        if self.file is None:
            self.unit = None

    @rule(
        privileged=st.sampled_from([True, True, True, False]),
        header=st.sampled_from([None, "none", "sockaddr"]),
    )
    def open(self, privileged: bool, header: Header | None) -> None:
        there = self.twin.tun_find_unit(0) is not None
        code = self.twin.tunopen(0, privileged)
        self.driver._privileged = lambda: privileged
        files: list[TunFile] = []
        assert outcome(lambda: files.append(self.driver.open(0, header=header))) == code
        if privileged and not there:
            self.is_new(self.driver.unit(0), IFQMAXLEN, IFQMAXLEN)
        if files:
            self.file = files[0]
            if header is not None:
                self.twin.set_flag(self.softc, 0x200, header == "sockaddr")

    @precondition(lambda self: self.file is not None)
    @rule()
    def close(self) -> None:
        assert self.file is not None
        self.twin.tunclose(0)
        self.file.close()
        self.file = None
        if self.twin.tun_find_unit(0) is None:
            self.unit = None

    # --- requests ---

    @rule(cmd=st.sampled_from(["SIOCSIFADDR", "SIOCSIFDSTADDR"]), address=addresses)
    def set_address(self, cmd: str, address: Address) -> None:
        family = AF_INET if address.version == 4 else AF_INET6
        tp = self.twin.tun_find_unit(0)
        if tp is not None and self.unit is not None:
            assert self.twin.in_control(tp, cmd, family, int(address)) == 0
            self.unit.ifioctl(IfIoctl[cmd], address)
        elif self.unit is not None:
            assert outcome(self.unit.ifioctl, IfIoctl[cmd], address) == errno.ENXIO

    @rule(value=st.sampled_from([0, 1, 0x7005]))
    def set_flags(self, value: int) -> None:
        tp = self.twin.tun_find_unit(0)
        if tp is not None and self.unit is not None:
            assert self.twin.ifioctl(tp, value) == 0
            self.unit.set_flags(value)

    @precondition(lambda self: self.file is not None)
    @rule(
        cmd=st.sampled_from(["TUNSLMODE", "FIONBIO", "FIOASYNC", "TUNSIFMODE", "FIONREAD", "TIOCSTI"]),
        value=st.sampled_from([0, 1, 2, 16]),
    )
    def set(self, cmd: str, value: int) -> None:
        assert self.file is not None
        data = [value]
        code = self.twin.tunioctl(0, cmd, data)
        found: list[int] = []
        assert outcome(lambda: found.append(self.file_.ioctl(cmd, value))) == code
        assert code or cmd != "FIONREAD" or found == data

    # --- packets ---

    @rule(
        family=st.sampled_from([2, 2, 24, 24, 0, 7]),
        size=sizes,
        to=addresses,
        count=st.sampled_from([1, 1, QUEUE]),
    )
    def output(self, family: int, size: int, to: Address, count: int) -> None:
        for _ in range(count if self.unit is not None else 0):
            self.output_one(family, size, to)

    def output_one(self, family: int, size: int, to: Address) -> None:
        assert self.unit is not None
        destination: Address = DESTINATIONS.get(family, to)
        packet = bytes([len(self.captured) % 256]) * size
        tp = self.twin.tun_find_unit(0)
        data = sockaddr(destination) if family in (AF_INET, AF_INET6) else b""
        code = errno.ENXIO if tp is None else self.twin.tun_output(tp, packet, Sockaddr(family, data))
        assert outcome(self.unit.output, packet, family, destination) == code
        self.refused += code in (errno.EHOSTDOWN, errno.EAFNOSUPPORT)

    @precondition(lambda self: self.file is not None)
    @rule(size=sizes)
    def read(self, size: int) -> None:
        uio = Uio(size)
        code = self.twin.tunread(0, uio)
        if code is None:  # it would sleep
            self.softc.tun_flags &= ~0x40
            return
        found: list[bytes] = []
        assert outcome(lambda: found.append(self.file_.read(size))) == code
        assert code or found == [uio.base]
        self.read_packets += not code

    @precondition(lambda self: self.file is not None)
    @rule(most=st.integers(0, 4))
    def read_batch(self, most: int) -> None:
        found: list[list[bytes]] = []
        code = outcome(lambda: found.append(self.file_.read_batch(most)))
        expected: list[bytes] = []
        while len(expected) < most and self.twin.tunpoll(0, POLLIN_ANY):
            uio = Uio(1 << 17)
            if self.twin.tunread(0, uio):
                break
            expected.append(uio.base)
        assert found == ([] if code else [expected])
        assert code in (0, errno.ENXIO, errno.EHOSTDOWN)
        self.read_packets += len(expected)

    @precondition(lambda self: self.file is not None)
    @rule(
        head=likely_heads | st.just(b""),
        first=first_bytes | st.just(b""),
        size=sizes,
        count=st.sampled_from([1, 1, INPUT_QUEUE]),
    )
    def write(self, head: bytes, first: bytes, size: int, count: int) -> None:
        data = head + first.ljust(size if first else 0, b"w")
        for _ in range(count):
            code = self.twin.tunwrite(0, Uio(len(data), data))
            assert outcome(self.file_.write, data) == code

    @precondition(lambda self: self.unit is not None)
    @rule()
    def take_input(self) -> None:
        assert self.unit is not None
        found = self.unit.input()
        if found is None:
            assert not self.twin.ipintrq.mbufs + self.twin.ip6intrq.mbufs
        else:
            queue = self.twin.ipintrq if found[0] == 4 else self.twin.ip6intrq
            assert found[1] == queue.mbufs.pop(0)

    # --- what is so at every step ---

    @invariant()
    def the_same_unit(self) -> None:
        assert [unit.number for unit in self.driver.units()] == [
            tp.tun_unit for tp in self.twin.tun_softc_list
        ]
        assert list(self.driver.zombies()) == [tp.tun_unit for tp in self.twin.tunz_softc_list]
        if self.unit is None:
            return
        tp, ifp = self.softc, self.softc.tun_if
        assert (self.unit.flags, self.unit.if_flags) == (tp.tun_flags, ifp.if_flags)
        assert (self.unit.mtu, self.unit.tunmtu) == (ifp.if_mtu, ifp.tunmtu)

    @invariant()
    def the_same_counters(self) -> None:
        if self.unit is None:
            return
        ifp, counters = self.softc.tun_if, self.unit.counters()
        assert counters.pop("purged") == ifp.if_opackets - self.read_packets - len(ifp.if_snd.mbufs)
        assert counters == {
            "ipackets": ifp.if_ipackets,
            "ibytes": ifp.if_ibytes,
            "opackets": ifp.if_opackets,
            "obytes": ifp.if_obytes,
            "ierrors": ifp.if_ierrors,
            "oerrors": self.refused,
            "collisions": ifp.if_collisions,
            "drops": ifp.if_snd.ifq_drops,
            "input_drops": self.twin.ipintrq.ifq_drops + self.twin.ip6intrq.ifq_drops,
        }
        assert self.unit.queue_len == len(ifp.if_snd.mbufs)
        waiting = len(self.twin.ipintrq.mbufs) + len(self.twin.ip6intrq.mbufs)
        assert self.unit.native.view()["input"] == waiting

    @invariant()
    def the_same_captured(self) -> None:
        if self.unit is None:
            return
        for packet in parse(HEAD + self.capture.read(1 << 24)).packets:
            (family,) = struct.unpack("=I", packet.data[:4])
            self.captured.append((family, packet.data[4:]))
        assert self.captured == self.softc.tun_if.if_bpf

    @invariant()
    def it_polls_the_same(self) -> None:
        if self.file is None:
            return
        asked = select.poll()
        asked.register(self.file.fileno(), EVENTS)
        found = dict(asked.poll(0)).get(self.file.fileno(), 0)
        assert found == self.file.poll(EVENTS) == self.twin.tunpoll(0, EVENTS)
        for filter_ in (EVFILT_READ, EVFILT_WRITE):
            assert (0, *self.file.kevent(filter_)) == self.twin.tunkqfilter(0, filter_)

    # --- shared ---

    @property
    def softc(self) -> Softc:
        (tp,) = self.twin.tun_softc_list + self.twin.tunz_softc_list
        return tp

    @property
    def file_(self) -> TunFile:
        assert self.file is not None
        assert self.softc.tun_flags & TUN_OPEN
        return self.file


def outcome(call: Callable[..., object], *args: object) -> int:
    """The errno of a call, 0 when there is none."""
    try:
        call(*args)
    except OSError as error:
        return error.errno or -1
    return 0


def sockaddr(address: Address) -> bytes:
    """As NetBSD has it in memory."""
    if address.version == 4:
        return bytes([16, AF_INET, 0, 0]) + address.packed + bytes(8)
    return bytes([28, AF_INET6, 0, 0, 0, 0, 0, 0]) + address.packed + bytes(4)


TestTwins = Twins.TestCase


# --- the link headers of the engine and of headers.py ---

headers = st.sampled_from(HEADERS)
systems = st.sampled_from(SYSTEMS)
likely = st.sampled_from(
    [
        bytes.fromhex(start)
        for start in ("1002", "1c18", "02000000", "0000001e", "00000800", "45", "60", "0a00", "")
    ]
)


def opened(driver: TunDriver, header: Header, system: System) -> tuple[Interface, TunFile]:
    unit = driver.create(0, system=system)
    unit.set_address(IPv4Address("10.7.0.1"))
    return unit, driver.open(0, header=header, nonblocking=True)


@given(headers, systems, st.ip_addresses(), st.binary(max_size=80))
def test_what_is_output_is_read_and_can_be_written_back(
    header: Header, system: System, to: IPv4Address | IPv6Address, rest: bytes
) -> None:
    packet = bytes([to.version << 4]) + rest
    with TunDriver() as driver:
        unit, file = opened(driver, header, system)
        unit.output(packet, None, to)
        data = file.read()
        assert data == encode(header, packet, family=to.version, system=system, destination=to)
        file.write(data)
        assert unit.input() == (to.version, packet)
        unit.output(packet, AF_UNSPEC)
        assert file.read() == packet


@given(headers, systems, st.builds(bytes.__add__, likely, st.binary(max_size=64)))
def test_any_bytes_that_are_written_are_what_headers_py_reads(
    header: Header, system: System, data: bytes
) -> None:
    try:
        found = decode(header, data, system=system)
        expected = 0 if found.payload else errno.EIO
        taken = (found.family.value, found.payload) if found.payload else None
    except HeaderError as error:
        expected, taken = error.errno, None
    with TunDriver() as driver:
        unit, file = opened(driver, header, system)
        assert outcome(file.write, data) == expected
        assert unit.input() == taken
