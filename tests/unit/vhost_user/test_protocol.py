"""The pure protocol: what every request leads to, every refusal, and when rings start and stop."""

import os
import sys
from collections.abc import Iterable, Iterator

import pytest

from vbackend.errors import PeerError
from vbackend.fds import OwnedFd
from vbackend.vhost_user.events import (
    AddMemory,
    Announce,
    Command,
    EnableRing,
    KeepBackendChannel,
    Log,
    Message,
    Payload,
    Region,
    RemoveMemory,
    Request,
    RingAddresses,
    RingBase,
    RingState,
    SetCall,
    SetErr,
    SetFeatures,
    SetKick,
    SetLog,
    SetLogCall,
    SetMemory,
    StartRing,
    Step,
    StopRing,
)
from vbackend.vhost_user.features import PROTOCOL_FEATURES, Feature, Offer, ProtocolFeature
from vbackend.vhost_user.messages import encode_state, encode_u64
from vbackend.vhost_user.protocol import FrontEnd

R = Request
F = Feature
P = ProtocolFeature

ONE = Region(0, 1 << 28, 0x7F0000000000, 0)
TWO = Region(1 << 32, 1 << 20, 0x7F8000000000, 1 << 28)
AT = ONE.user_address
MAC = int.from_bytes(b"\x52\x54\x00\x12\x34\x56\xff\xff", sys.byteorder)
MODERN = F.VERSION_1 | F.PROTOCOL_FEATURES


def places(ring: int, at: int = AT, *, flags: int = 0, log: int = 0) -> RingAddresses:
    return RingAddresses(ring, flags, descriptors=at, device=at + 0x2000, driver=at + 0x1000, log=log)


class Script:
    """A front-end whose commands are carried out by nobody; rings that stop stand at `at`."""

    def __init__(self, offer: Offer | None = None, *, at: int | None = 7) -> None:
        self.front = FrontEnd(offer or Offer(queues=2))
        self.at = at
        self.fds: list[OwnedFd] = []

    def fd(self) -> OwnedFd:
        self.fds.append(OwnedFd(os.open(os.devnull, os.O_RDONLY)))
        return self.fds[-1]

    def step(
        self, request: Request, payload: Payload = None, *fds: OwnedFd, need_reply: bool = False
    ) -> Step:
        step = self.front.handle(Message(request, payload, fds, need_reply))
        for command in step.commands:
            if isinstance(command, StopRing):
                self.front.stopped(command.ring, self.at)
        return step

    def say(self, request: Request, payload: Payload = None, *fds: OwnedFd) -> tuple[Command, ...]:
        return self.step(request, payload, *fds).commands

    def negotiate(self, features: Feature = MODERN) -> None:
        self.say(R.SET_PROTOCOL_FEATURES, int(PROTOCOL_FEATURES))
        self.say(R.SET_FEATURES, int(features))

    def memory(self, *regions: Region) -> tuple[Command, ...]:
        return self.say(R.SET_MEM_TABLE, regions, *(self.fd() for _ in regions))

    def run(self, ring: int, *, base: int = 0, size: int = 256) -> tuple[Command, ...]:
        self.say(R.SET_VRING_NUM, RingState(ring, size))
        self.say(R.SET_VRING_BASE, RingState(ring, base))
        self.say(R.SET_VRING_ADDR, places(ring))
        return self.say(R.SET_VRING_KICK, ring, self.fd())


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    yield script
    for fd in script.fds:
        fd.close()


@pytest.fixture
def running(script: Script) -> Script:
    """Rings 0 and 1 run and forward."""
    script.negotiate()
    script.memory(ONE)
    for ring in (0, 1):
        script.say(R.SET_VRING_ENABLE, RingState(ring, 1))
        script.run(ring)
    return script


# Answers

ANSWERS: list[tuple[Request, Payload, int | RingBase]] = [
    (R.GET_FEATURES, None, int(Offer(queues=2).features)),
    (R.GET_PROTOCOL_FEATURES, None, int(PROTOCOL_FEATURES)),
    (R.GET_QUEUE_NUM, None, 2),
    (R.GET_MAX_MEM_SLOTS, None, 32),
    (R.GET_STATUS, None, 0),
    (R.GET_VRING_BASE, RingState(3, 0), RingBase(3)),
]


@pytest.mark.parametrize(("request_", "payload", "answer"), ANSWERS)
@pytest.mark.parametrize("need_reply", [False, True])
def test_answers_are_given_once(
    script: Script, request_: Request, payload: Payload, answer: int | RingBase, need_reply: bool
) -> None:
    script.negotiate()
    assert script.step(request_, payload, need_reply=need_reply) == Step((), answer)


def test_features_can_be_asked_for_before_anything_else(script: Script) -> None:
    assert script.step(R.GET_FEATURES).answer == script.front.offer.features
    assert script.step(R.GET_PROTOCOL_FEATURES).answer == PROTOCOL_FEATURES


QUIET: list[tuple[Request, Payload]] = [
    (R.SET_OWNER, None),
    (R.RESET_OWNER, None),
    (R.RESET_DEVICE, None),
    (R.SET_LOG_FD, None),
    (R.SET_FEATURES, int(MODERN)),
    (R.SET_PROTOCOL_FEATURES, int(PROTOCOL_FEATURES)),
    (R.NET_SET_MTU, 9000),
    (R.SEND_RARP, MAC),
    (R.SET_STATUS, 0xF),
    (R.SET_MEM_TABLE, ()),
    (R.REM_MEM_REG, ONE),
    (R.SET_VRING_NUM, RingState(0, 1)),
    (R.SET_VRING_ADDR, places(0)),
    (R.SET_VRING_BASE, RingState(0, 5)),
    (R.SET_VRING_ENABLE, RingState(0, 1)),
    (R.SET_VRING_KICK, 0x100),
    (R.SET_VRING_CALL, 0x100),
    (R.SET_VRING_ERR, 0x100),
]


@pytest.mark.parametrize(("request_", "payload"), QUIET)
def test_others_are_acknowledged_when_that_is_wanted_and_negotiated(
    script: Script, request_: Request, payload: Payload
) -> None:
    script.negotiate()
    assert script.step(request_, payload).answer is None
    assert script.step(request_, payload, need_reply=True).answer == 0
    script.say(R.SET_PROTOCOL_FEATURES, int(PROTOCOL_FEATURES & ~P.REPLY_ACK))
    if request_ is not R.SET_PROTOCOL_FEATURES:
        assert script.step(request_, payload, need_reply=True).answer is None


def test_the_request_that_negotiates_acknowledgements_gets_one(script: Script) -> None:
    """User-mode Linux waits for it."""
    assert script.step(R.SET_PROTOCOL_FEATURES, int(P.REPLY_ACK), need_reply=True).answer == 0


def test_what_is_told_is_answered_later(script: Script) -> None:
    script.negotiate()
    script.say(R.SET_STATUS, 0xB)
    script.say(R.NET_SET_MTU, 9000)
    assert script.step(R.GET_STATUS).answer == 0xB
    assert script.front.mtu == 9000


def test_bytes_of_answers(running: Script) -> None:
    front = running.front
    assert front.encode(R.GET_QUEUE_NUM, 2) == encode_u64(R.GET_QUEUE_NUM, 2)
    running.say(R.GET_VRING_BASE, RingState(1, 0))
    assert front.encode(R.GET_VRING_BASE, RingBase(1)) == encode_state(R.GET_VRING_BASE, 1, 7)


# Refusals

REFUSALS: list[tuple[Request, Payload, int, str]] = [
    (R.SET_FEATURES, 1 << 17 | 1 << 60, 0, "CTRL_VQ, bit 60: acknowledged, but not offered"),
    (R.SET_PROTOCOL_FEATURES, 1 << 12, 0, "INFLIGHT_SHMFD: acknowledged, but not offered"),
    (R.NET_SET_MTU, 67, 0, "67; it must be from 68 to 65535"),
    (R.NET_SET_MTU, 65_536, 0, "65536; it must be"),
    (R.SEND_RARP, 0x01, 0, "01:00:00:00:00:00 is no station's address"),
    (R.SEND_RARP, 0xFFFF << 48, 0, "00:00:00:00:00:00 is no station's address"),
    (R.SET_STATUS, 256, 0, "0x100; a device status is one byte"),
    (R.SET_BACKEND_REQ_FD, None, 0, "came without a file descriptor"),
    (R.SET_MEM_TABLE, (ONE,), 0, "1 regions came with 0 file descriptors"),
    (R.SET_MEM_TABLE, (), 1, "0 regions came with 1 file descriptors"),
    (R.SET_MEM_TABLE, (ONE, ONE), 2, "overlaps"),
    (R.ADD_MEM_REG, ONE, 0, "came without a file descriptor"),
    (R.ADD_MEM_REG, Region(0, 0, 0, 0), 1, "is empty"),
    (R.SET_LOG_BASE, Log(4096, 0), 0, "came without a file descriptor"),
    (R.SET_LOG_BASE, Log(0, 0), 1, "the log is empty"),
    (R.SET_VRING_NUM, RingState(4, 256), 0, "ring 4 of 4; this port has queues=2"),
    (R.SET_VRING_NUM, RingState(0, 0), 0, "ring 0: 0 descriptors; give 1 to 32768"),
    (R.SET_VRING_NUM, RingState(0, 32_769), 0, "32769 descriptors"),
    (R.SET_VRING_ADDR, places(4), 0, "ring 4 of 4"),
    (R.SET_VRING_BASE, RingState(1 << 31, 0), 0, "ring 2147483648 of 4"),
    (R.GET_VRING_BASE, RingState(4, 0), 0, "ring 4 of 4"),
    (R.SET_VRING_ENABLE, RingState(4, 1), 0, "ring 4 of 4"),
    (R.SET_VRING_ENABLE, RingState(0, 2), 0, "ring 0: 2; give 0 or 1"),
    (R.SET_VRING_KICK, 4, 1, "ring 4 of 4"),
    (R.SET_VRING_KICK, 0, 0, "came without a file descriptor"),
    (R.SET_VRING_CALL, 0, 0, "came without a file descriptor"),
    (R.SET_VRING_CALL, 0x100, 1, "ring 0: bit 8 says that there is no file descriptor, but one came"),
    (R.SET_VRING_ERR, 0xFF, 1, "ring 255 of 4"),
]


@pytest.mark.parametrize(("request_", "payload", "fds", "words"), REFUSALS)
def test_refusals(running: Script, request_: Request, payload: Payload, fds: int, words: str) -> None:
    given = [running.fd() for _ in range(fds)]
    with pytest.raises(PeerError) as caught:
        running.say(request_, payload, *given)
    assert str(caught.value).startswith(f"{request_.name}: ")
    assert words in str(caught.value)


NEEDS = [
    (R.GET_QUEUE_NUM, None, P.MQ),
    (R.NET_SET_MTU, 1500, P.MTU),
    (R.SEND_RARP, MAC, P.RARP),
    (R.SET_BACKEND_REQ_FD, None, P.BACKEND_REQ),
    (R.RESET_DEVICE, None, P.RESET_DEVICE),
    (R.GET_STATUS, None, P.STATUS),
    (R.SET_STATUS, 1, P.STATUS),
    (R.GET_MAX_MEM_SLOTS, None, P.CONFIGURE_MEM_SLOTS),
    (R.ADD_MEM_REG, ONE, P.CONFIGURE_MEM_SLOTS),
    (R.REM_MEM_REG, ONE, P.CONFIGURE_MEM_SLOTS),
    (R.SET_LOG_BASE, Log(4096, 0), P.LOG_SHMFD),
]


@pytest.mark.parametrize(("request_", "payload", "needs"), NEEDS)
def test_what_needs_a_protocol_feature(
    script: Script, request_: Request, payload: Payload, needs: ProtocolFeature
) -> None:
    script.say(R.SET_PROTOCOL_FEATURES, int(PROTOCOL_FEATURES & ~needs))
    with pytest.raises(PeerError, match=f"{request_.name}: the protocol feature {needs.name} was not"):
        script.say(request_, payload, script.fd())
    script.say(R.SET_PROTOCOL_FEATURES, int(needs))
    script.say(request_, payload, script.fd())


@pytest.mark.parametrize(
    ("request_", "need_reply", "expected"),
    [(int(R.SET_VRING_NUM), True, True), (99, True, True), (99, False, False)]
    + [(int(request), True, False) for request, _, _ in ANSWERS]
    + [(int(R.SET_LOG_BASE), True, False)],
)
def test_the_error_of_the_protocol(script: Script, request_: int, need_reply: bool, expected: bool) -> None:
    assert script.front.refusal(request_, need_reply) is None
    script.negotiate()
    reply = script.front.refusal(request_, need_reply)
    assert reply == (encode_u64(request_, 1) if expected else None)


# Memory and the log


def test_memory_as_a_table_and_in_slots(script: Script) -> None:
    script.negotiate()
    fds = [script.fd() for _ in range(4)]
    assert script.say(R.SET_MEM_TABLE, (ONE,), fds[0]) == (SetMemory((ONE,), (fds[0],)),)
    assert script.say(R.ADD_MEM_REG, TWO, fds[1]) == (AddMemory(TWO, fds[1]),)
    assert script.front.memory.size == ONE.size + TWO.size
    same = Region(TWO.guest_address, TWO.size, TWO.user_address, 0)
    assert script.say(R.ADD_MEM_REG, same, fds[2]) == (), "QEMU 7.2 sends a region once per pair"
    assert script.say(R.REM_MEM_REG, same, fds[3]) == (RemoveMemory(TWO),)
    assert script.say(R.REM_MEM_REG, same) == (), "and takes it away as often"
    assert script.front.memory.regions == [ONE]


def test_the_log_is_always_answered(script: Script) -> None:
    script.negotiate()
    fd = script.fd()
    assert script.step(R.SET_LOG_BASE, Log(4096, 0), fd) == Step((SetLog(Log(4096, 0), fd),), 0)


def test_who_waits_for_the_log_is_told_of_it(script: Script) -> None:
    script.negotiate()
    fd = script.fd()
    assert script.say(R.SET_LOG_FD, None, fd) == (SetLogCall(fd),)
    assert script.say(R.SET_LOG_FD) == (SetLogCall(None),)


def test_a_guest_that_moved_is_announced(script: Script) -> None:
    script.negotiate()
    assert script.say(R.SEND_RARP, MAC) == (Announce(b"\x52\x54\x00\x12\x34\x56"),)


def test_descriptors_go_with_their_commands(script: Script) -> None:
    script.negotiate()
    fd = script.fd()
    assert script.say(R.SET_VRING_KICK, 1, fd) == (SetKick(1, fd),)
    assert script.say(R.SET_VRING_CALL, 2, fd) == (SetCall(2, fd),)
    assert script.say(R.SET_VRING_ERR, 3, fd) == (SetErr(3, fd),)
    assert script.say(R.SET_VRING_KICK, 0x101) == (SetKick(1, None),)
    assert script.say(R.SET_VRING_CALL, 0x102) == (SetCall(2, None),)
    assert script.say(R.SET_VRING_ERR, 0x103) == (SetErr(3, None),)
    assert script.say(R.SET_BACKEND_REQ_FD, None, fd) == (KeepBackendChannel(fd),)


# Rings


def kinds(commands: Iterable[Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


def test_a_ring_starts_with_its_kick_and_forwards_once_enabled(script: Script) -> None:
    script.negotiate()
    script.memory(ONE)
    started = script.run(0, base=9, size=64)
    assert kinds(started) == ["SetKick", "StartRing"]
    assert started[1] == StartRing(0, 64, 9, places(0))
    assert script.say(R.SET_VRING_ENABLE, RingState(0, 1)) == (EnableRing(0, True),)
    assert script.say(R.SET_VRING_ENABLE, RingState(0, 1)) == ()
    assert script.say(R.SET_VRING_ENABLE, RingState(0, 0)) == (EnableRing(0, False),)


def test_enabled_before_it_starts(script: Script) -> None:
    """QEMU does that: it enables rings at every reset, long before they run."""
    script.negotiate()
    script.memory(ONE)
    assert script.say(R.SET_VRING_ENABLE, RingState(1, 1)) == ()
    assert kinds(script.run(1)) == ["SetKick", "EnableRing", "StartRing"]


def test_without_protocol_features_it_forwards_from_its_start(script: Script) -> None:
    script.say(R.SET_FEATURES, int(F.VERSION_1))
    script.memory(ONE)
    assert script.run(0)[1:] == (EnableRing(0, True), StartRing(0, 256, 0, places(0)))


def test_a_ring_without_a_kick_descriptor_is_polled(script: Script) -> None:
    script.negotiate()
    script.memory(ONE)
    script.run(0)
    script.say(R.GET_VRING_BASE, RingState(0, 0))
    assert kinds(script.say(R.SET_VRING_KICK, 0x100)) == ["SetKick", "StartRing"]


def test_stopped_by_asking_for_its_base(running: Script) -> None:
    assert running.step(R.GET_VRING_BASE, RingState(0, 0)) == Step((StopRing(0),), RingBase(0))
    assert running.front.rings[0].base == 7
    assert running.step(R.GET_VRING_BASE, RingState(0, 0)) == Step((), RingBase(0))
    assert running.front.rings[0].base == 7
    assert running.say(R.SET_VRING_KICK, 0, running.fd())[1] == StartRing(0, 256, 7, places(0))


def test_the_base_of_the_front_end_is_believed(running: Script) -> None:
    running.say(R.GET_VRING_BASE, RingState(1, 0))
    running.say(R.SET_VRING_BASE, RingState(1, 12))
    assert running.say(R.SET_VRING_KICK, 1, running.fd())[1] == StartRing(1, 256, 12, places(1))


NEWS: list[tuple[Request, Payload]] = [
    (R.SET_VRING_NUM, RingState(0, 256)),
    (R.SET_VRING_BASE, RingState(0, 3)),
    (R.SET_VRING_ADDR, places(0, AT + 0x10000)),
]


@pytest.mark.parametrize(("request_", "payload"), NEWS)
def test_set_up_anew_while_it_runs(running: Script, request_: Request, payload: Payload) -> None:
    """User-mode Linux does not stop its rings when the driver is unloaded."""
    assert running.say(request_, payload) == (StopRing(0),)
    assert kinds(running.say(R.SET_VRING_KICK, 0, running.fd())) == ["SetKick", "StartRing"]
    base = 3 if request_ is R.SET_VRING_BASE else 7
    assert running.front.rings[0].base == base


def test_the_same_addresses_again_leave_it_alone(running: Script) -> None:
    """QEMU sends them to switch logging on and off."""
    assert running.say(R.SET_VRING_ADDR, places(0, flags=1, log=0x1000)) == ()


def test_features_while_rings_run(running: Script) -> None:
    logging = int(MODERN | F.LOG_ALL)
    assert running.say(R.SET_FEATURES, logging) == (SetFeatures(logging),), "a migration begins"
    assert running.say(R.SET_FEATURES, int(MODERN)) == (SetFeatures(int(MODERN)),), "and is called off"
    other = int(MODERN | F.RING_PACKED)
    assert running.say(R.SET_FEATURES, other) == (StopRing(0), StopRing(1), SetFeatures(other))


@pytest.mark.parametrize("request_", [R.RESET_DEVICE, R.RESET_OWNER])
def test_resets_stop_and_disable_all(running: Script, request_: Request) -> None:
    running.say(R.SET_STATUS, 0xF)
    assert running.say(request_) == (StopRing(0), StopRing(1))
    assert running.step(R.GET_STATUS).answer == 0
    assert running.front.memory.regions == [ONE], "it is not sent again"
    assert kinds(running.run(0)) == ["SetKick", "EnableRing", "StartRing"]
    assert not running.front.rings[0].forwarding


def test_status_zero_is_a_reset_of_the_device(running: Script) -> None:
    running.say(R.SET_STATUS, 0xF)
    assert running.say(R.SET_STATUS, 0) == (StopRing(0), StopRing(1))
    assert running.step(R.GET_VRING_BASE, RingState(0, 0)) == Step((), RingBase(0))
    assert running.front.rings[0].base == 7


def test_memory_is_swapped_under_running_rings(running: Script) -> None:
    assert kinds(running.memory(ONE, TWO)) == ["SetMemory"]
    assert kinds(running.memory(ONE)) == ["SetMemory"]


def test_a_ring_stops_before_its_memory_goes_and_starts_when_it_is_back(running: Script) -> None:
    assert kinds(running.memory(TWO)) == ["StopRing", "StopRing", "SetMemory"]
    assert running.front.problem(running.front.rings[0]) == "0x7f0000000000 is in no memory region"
    back = running.memory(ONE)
    assert kinds(back) == ["SetMemory", "StartRing", "StartRing"]
    assert back[1] == StartRing(0, 256, 7, places(0))
    assert running.say(R.REM_MEM_REG, ONE) == (StopRing(0), StopRing(1), RemoveMemory(ONE))


def test_a_ring_that_made_no_sense_needs_a_new_kick(running: Script) -> None:
    front = running.front
    front.broken(1, "descriptor chain longer than the ring")
    assert front.problem(front.rings[1]) == "descriptor chain longer than the ring"
    assert running.say(R.SET_VRING_CALL, 1, running.fd())[1:] == ()
    assert running.step(R.GET_VRING_BASE, RingState(1, 0)) == Step((), RingBase(1))
    assert kinds(running.run(1)) == ["SetKick", "StartRing"]
    assert front.problem(front.rings[1]) == ""


def test_broken_while_it_is_being_stopped(running: Script) -> None:
    """The engine stops it first; its report comes after."""
    running.at = None
    running.say(R.SET_VRING_BASE, RingState(1, 3))
    running.front.broken(1, "index jumped")
    assert running.front.rings[1].base == 3
    assert kinds(running.say(R.SET_VRING_KICK, 1, running.fd())) == ["SetKick", "StartRing"]


def test_problems_of_rings_that_were_kicked(script: Script) -> None:
    ring = script.front.rings[0]
    assert script.front.problem(ring) == ""
    script.run(0)
    assert script.front.problem(ring) == "there was no SET_FEATURES"
    script.negotiate()
    assert script.front.problem(ring) == "0x7f0000000000 is in no memory region"
    script.memory(ONE)
    assert script.front.problem(ring) == ""
    assert ring.running
