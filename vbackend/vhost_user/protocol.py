"""The back-end's side of vhost-user: one front-end, one small function per request, in one table. Pure.

`handle` takes a request and returns the commands it leads to, in order, and the answer. A request only changes what is
known; which rings then have to stop or start follows from that alone (`FrontEnd._settle`), so every order of requests
that ends in the same knowledge ends in the same rings.

Source: QEMU's docs/interop/vhost-user.rst; where front-ends differ from it, the line says which.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from vbackend.errors import PeerError
from vbackend.fds import OwnedFd
from vbackend.vhost_user.events import (
    AddMemory,
    Announce,
    Answer,
    Command,
    EnableRing,
    KeepBackendChannel,
    Log,
    Message,
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
from vbackend.vhost_user.features import PROTOCOL_FEATURES, Feature, Offer, ProtocolFeature, names
from vbackend.vhost_user.messages import NO_FD, encode_state, encode_u64
from vbackend.vhost_user.state import MOST_SLOTS, Memory, Ring

__all__ = ["FrontEnd"]

_DONE: Final = 0
_REFUSED: Final = 1
_MOST_DESCRIPTORS: Final = 32_768  # VIRTIO 1.2 §2.7 and §2.8
_MTU: Final = range(68, 65_536)  # VIRTIO 1.2 §5.1.4.1
_STATUS: Final = range(256)  # a byte in VIRTIO's device status field
_NONE: Final = ProtocolFeature(0)
_LOG_TOGGLE: Final = Feature.LOG_ALL | Feature.PROTOCOL_FEATURES  # may change while rings run

Fds = tuple[OwnedFd, ...]


class FrontEnd:
    """What one front-end has negotiated and set up, from its connection to its end."""

    def __init__(self, offer: Offer) -> None:
        self.offer: Final = offer
        self.features: Feature | None = None
        self.protocol_features = ProtocolFeature(0)
        self.memory = Memory()
        self.rings = [Ring() for _ in range(offer.rings)]
        self.mtu: int | None = None
        self.status = 0

    def handle(self, message: Message) -> Step:
        """What the request leads to. PeerError: it is illegal; the session has to end, after `refusal`."""
        name, rule = message.request.name, _RULES[message.request]
        if rule.needs & ~self.protocol_features:
            raise PeerError(f"{name}: the protocol feature {rule.needs.name} was not acknowledged before")
        step = rule.handle(self, message.payload, message.fds)
        stops, starts = self._settle()
        answer = step.answer
        if answer is None and message.need_reply and ProtocolFeature.REPLY_ACK in self.protocol_features:
            answer = _DONE
        return Step((*stops, *step.commands, *starts), answer)

    def stopped(self, ring: int, base: int | None) -> None:
        """Where a ring stood when it was stopped; None: it was not running any more."""
        state = self.rings[ring]
        if base is not None and not state.base_is_news:
            state.base = base

    def broken(self, ring: int, problem: str) -> None:
        """The engine stopped a ring that made no sense; its next kick starts it again."""
        state = self.rings[ring]
        state.problem = problem
        if state.running:
            state.running = state.kicked = False

    def encode(self, request: Request, answer: Answer) -> bytes:
        """The reply's bytes, once the commands are carried out."""
        if isinstance(answer, RingBase):
            return encode_state(request, answer.ring, self.rings[answer.ring].base)
        return encode_u64(request, answer)

    def refusal(self, request: int, need_reply: bool) -> bytes | None:
        """The protocol's error for a request that was illegal or could not be carried out, if it wants one."""
        answers = request in _WITH_ANSWER
        if answers or not need_reply or ProtocolFeature.REPLY_ACK not in self.protocol_features:
            return None
        return encode_u64(request, _REFUSED)

    def forwards(self, ring: Ring) -> bool:
        """Whether it does when it runs; without PROTOCOL_FEATURES it always does ("Ring states")."""
        return ring.enabled or Feature.PROTOCOL_FEATURES not in (self.features or Feature(0))

    def problem(self, ring: Ring) -> str:
        """Why a ring that was kicked does not run; "" when it does, or nobody kicked it."""
        if ring.problem or ring.running or not ring.kicked:
            return ring.problem
        return "there was no SET_FEATURES" if self.features is None else ring.lacks(self.memory)

    def _settle(self) -> tuple[list[Command], list[Command]]:
        """What makes the rings run as they should: before and after a request's own commands."""
        stops: list[Command] = []
        starts: list[Command] = []
        for number, ring in enumerate(self.rings):
            ready = self.features is not None and not ring.lacks(self.memory)
            if ring.running and not ready:
                ring.running = False
                stops.append(StopRing(number))
            if ready and ring.forwarding != self.forwards(ring):
                ring.forwarding = not ring.forwarding
                starts.append(EnableRing(number, ring.forwarding))
            if ready and not ring.running and ring.addresses is not None:
                ring.running, ring.base_is_news, ring.problem = True, False, ""
                starts.append(StartRing(number, ring.size, ring.base, ring.addresses))
        return stops, starts

    def ring(self, request: Request, number: int) -> Ring:
        if number >= len(self.rings):
            raise PeerError(
                f"{request.name}: ring {number} of {len(self.rings)}; this port has queues={self.offer.queues}"
            )
        return self.rings[number]


# Features and ownership


def _get_features(front: FrontEnd, _: None, __: Fds) -> Step:
    return Step(answer=front.offer.features)


def _set_features(front: FrontEnd, bits: int, _: Fds) -> Step:
    if unknown := bits & ~int(front.offer.features):  # int: ~ of a flag has only named bits
        raise PeerError(f"SET_FEATURES: {', '.join(names(Feature(unknown)))}: acknowledged, but not offered")
    if ((front.features or 0) ^ bits) & ~int(_LOG_TOGGLE):
        for ring in front.rings:  # user-mode Linux does not stop them when its driver leaves
            ring.interrupt()
    front.features = Feature(bits)
    return Step((SetFeatures(bits),))


def _get_protocol_features(_: FrontEnd, __: None, ___: Fds) -> Step:
    return Step(answer=PROTOCOL_FEATURES)


def _set_protocol_features(front: FrontEnd, bits: int, _: Fds) -> Step:
    if unknown := bits & ~int(PROTOCOL_FEATURES):
        shown = ", ".join(names(ProtocolFeature(unknown)))
        raise PeerError(f"SET_PROTOCOL_FEATURES: {shown}: acknowledged, but not offered")
    front.protocol_features = ProtocolFeature(bits)
    return Step()


def _set_owner(_: FrontEnd, __: None, ___: Fds) -> Step:
    return Step()


def _reset_rings(front: FrontEnd, _: None, __: Fds) -> Step:
    """RESET_DEVICE, and RESET_OWNER, which front-ends should no longer send and back-ends should take for it."""
    for ring in front.rings:  # their descriptors stay: QEMU sends SET_VRING_ERR once per connection
        ring.kicked = ring.enabled = False
    front.status = 0
    return Step()


def _get_queue_num(front: FrontEnd, _: None, __: Fds) -> Step:
    """Pairs, as QEMU counts the queues of a network device."""
    return Step(answer=front.offer.queues)


def _net_set_mtu(front: FrontEnd, mtu: int, _: Fds) -> Step:
    if mtu not in _MTU:
        raise PeerError(f"NET_SET_MTU: {mtu}; it must be from {_MTU.start} to {_MTU.stop - 1}")
    front.mtu = mtu
    return Step()


def _send_rarp(_: FrontEnd, word: int, __: Fds) -> Step:
    """The first 6 bytes of the payload are the guest's address."""
    mac = word.to_bytes(8, sys.byteorder)[:6]
    if mac[0] & 1 or not any(mac):
        raise PeerError(f"SEND_RARP: {mac.hex(':')} is no station's address")
    return Step((Announce(mac),))


def _set_backend_req_fd(_: FrontEnd, __: None, fds: Fds) -> Step:
    """User-mode Linux has no interrupt without it, although nothing is ever sent there."""
    return Step((KeepBackendChannel(_the_fd(Request.SET_BACKEND_REQ_FD, fds)),))


def _get_status(front: FrontEnd, _: None, __: Fds) -> Step:
    return Step(answer=front.status)


def _set_status(front: FrontEnd, status: int, _: Fds) -> Step:
    if status not in _STATUS:
        raise PeerError(f"SET_STATUS: {status:#x}; a device status is one byte")
    front.status = status
    if not status:  # VIRTIO 1.2 §2.1: a reset
        for ring in front.rings:
            ring.kicked = False
    return Step()


# Memory


def _set_mem_table(front: FrontEnd, regions: tuple[Region, ...], fds: Fds) -> Step:
    if len(fds) != len(regions):
        raise PeerError(
            f"SET_MEM_TABLE: {len(regions)} regions came with {len(fds)} file descriptors; each needs one"
        )
    front.memory.replace("SET_MEM_TABLE", regions)
    return Step((SetMemory(regions, fds),))


def _get_max_mem_slots(_: FrontEnd, __: None, ___: Fds) -> Step:
    return Step(answer=MOST_SLOTS)


def _add_mem_reg(front: FrontEnd, region: Region, fds: Fds) -> Step:
    fd = _the_fd(Request.ADD_MEM_REG, fds)
    if front.memory.find(region) is not None:  # QEMU 7.2 sends each once per pair of rings
        return Step()
    front.memory.add("ADD_MEM_REG", region)
    return Step((AddMemory(region, fd),))


def _rem_mem_reg(front: FrontEnd, region: Region, _: Fds) -> Step:
    known = front.memory.find(region)
    if known is None:  # QEMU 7.2: as above
        return Step()
    front.memory.regions.remove(known)
    return Step((RemoveMemory(known),))


def _set_log_base(_: FrontEnd, log: Log, fds: Fds) -> Step:
    if not log.size:
        raise PeerError("SET_LOG_BASE: the log is empty; it needs one bit for each page of 4096 bytes")
    return Step((SetLog(log, _the_fd(Request.SET_LOG_BASE, fds)),), answer=_DONE)


def _set_log_fd(_: FrontEnd, __: None, fds: Fds) -> Step:
    """QEMU does not send it: it looks at the log when it wants to."""
    return Step((SetLogCall(fds[0] if fds else None),))


# Rings


def _set_vring_num(front: FrontEnd, state: RingState, _: Fds) -> Step:
    ring = front.ring(Request.SET_VRING_NUM, state.ring)
    if not 1 <= state.number <= _MOST_DESCRIPTORS:
        raise PeerError(
            f"SET_VRING_NUM: ring {state.ring}: {state.number} descriptors; give 1 to {_MOST_DESCRIPTORS}"
        )
    ring.size = state.number
    ring.interrupt()
    return Step()


def _set_vring_addr(front: FrontEnd, addresses: RingAddresses, _: Fds) -> Step:
    """The same again, as QEMU sends it to switch logging, leaves a running ring alone."""
    ring = front.ring(Request.SET_VRING_ADDR, addresses.ring)
    if _places(ring.addresses) != _places(addresses):
        ring.interrupt()
    ring.addresses = addresses
    return Step()


def _set_vring_base(front: FrontEnd, state: RingState, _: Fds) -> Step:
    """Always believed: while a ring is stopped QEMU takes buffers from it itself."""
    ring = front.ring(Request.SET_VRING_BASE, state.ring)
    ring.base, ring.base_is_news = state.number, True
    ring.interrupt()
    return Step()


def _get_vring_base(front: FrontEnd, state: RingState, _: Fds) -> Step:
    front.ring(Request.GET_VRING_BASE, state.ring).kicked = False
    return Step(answer=RingBase(state.ring))


def _set_vring_kick(front: FrontEnd, word: int, fds: Fds) -> Step:
    number, fd = _ring_fd(front, Request.SET_VRING_KICK, word, fds)
    front.rings[number].kicked = True
    return Step((SetKick(number, fd),))


def _set_vring_call(front: FrontEnd, word: int, fds: Fds) -> Step:
    return Step((SetCall(*_ring_fd(front, Request.SET_VRING_CALL, word, fds)),))


def _set_vring_err(front: FrontEnd, word: int, fds: Fds) -> Step:
    return Step((SetErr(*_ring_fd(front, Request.SET_VRING_ERR, word, fds)),))


def _set_vring_enable(front: FrontEnd, state: RingState, _: Fds) -> Step:
    ring = front.ring(Request.SET_VRING_ENABLE, state.ring)
    if state.number not in (0, 1):
        raise PeerError(f"SET_VRING_ENABLE: ring {state.ring}: {state.number}; give 0 or 1")
    ring.enabled = bool(state.number)
    return Step()


# What they share


def _the_fd(request: Request, fds: Fds) -> OwnedFd:
    if not fds:
        raise PeerError(f"{request.name}: came without a file descriptor; it needs one")
    return fds[0]


def _ring_fd(front: FrontEnd, request: Request, word: int, fds: Fds) -> tuple[int, OwnedFd | None]:
    """Bits 0 to 7 are the ring's number; bit 8 says that there is no descriptor."""
    number = word & 0xFF
    front.ring(request, number)
    if word & NO_FD:
        if fds:
            raise PeerError(
                f"{request.name}: ring {number}: bit 8 says that there is no file descriptor, but one came"
            )
        return number, None
    return number, _the_fd(request, fds)


def _places(addresses: RingAddresses | None) -> tuple[int, int, int] | None:
    return None if addresses is None else (addresses.descriptors, addresses.driver, addresses.device)


@dataclass(frozen=True, slots=True)
class _Rule:
    """`messages.parse_payload` has seen to it that `handle` gets the payload it is declared with."""

    handle: Callable[[FrontEnd, Any, Fds], Step]
    needs: ProtocolFeature = _NONE
    answers: bool = False


_RULES: Final[dict[Request, _Rule]] = {
    Request.GET_FEATURES: _Rule(_get_features, answers=True),
    Request.SET_FEATURES: _Rule(_set_features),
    Request.GET_PROTOCOL_FEATURES: _Rule(_get_protocol_features, answers=True),
    Request.SET_PROTOCOL_FEATURES: _Rule(_set_protocol_features),
    Request.SET_OWNER: _Rule(_set_owner),
    Request.RESET_OWNER: _Rule(_reset_rings),
    Request.RESET_DEVICE: _Rule(_reset_rings, ProtocolFeature.RESET_DEVICE),
    Request.GET_QUEUE_NUM: _Rule(_get_queue_num, ProtocolFeature.MQ, answers=True),
    Request.NET_SET_MTU: _Rule(_net_set_mtu, ProtocolFeature.MTU),
    Request.SEND_RARP: _Rule(_send_rarp, ProtocolFeature.RARP),
    Request.SET_BACKEND_REQ_FD: _Rule(_set_backend_req_fd, ProtocolFeature.BACKEND_REQ),
    Request.GET_STATUS: _Rule(_get_status, ProtocolFeature.STATUS, answers=True),
    Request.SET_STATUS: _Rule(_set_status, ProtocolFeature.STATUS),
    Request.SET_MEM_TABLE: _Rule(_set_mem_table),
    Request.GET_MAX_MEM_SLOTS: _Rule(_get_max_mem_slots, ProtocolFeature.CONFIGURE_MEM_SLOTS, answers=True),
    Request.ADD_MEM_REG: _Rule(_add_mem_reg, ProtocolFeature.CONFIGURE_MEM_SLOTS),
    Request.REM_MEM_REG: _Rule(_rem_mem_reg, ProtocolFeature.CONFIGURE_MEM_SLOTS),
    Request.SET_LOG_BASE: _Rule(_set_log_base, ProtocolFeature.LOG_SHMFD, answers=True),
    Request.SET_LOG_FD: _Rule(_set_log_fd),
    Request.SET_VRING_NUM: _Rule(_set_vring_num),
    Request.SET_VRING_ADDR: _Rule(_set_vring_addr),
    Request.SET_VRING_BASE: _Rule(_set_vring_base),
    Request.GET_VRING_BASE: _Rule(_get_vring_base, answers=True),
    Request.SET_VRING_KICK: _Rule(_set_vring_kick),
    Request.SET_VRING_CALL: _Rule(_set_vring_call),
    Request.SET_VRING_ERR: _Rule(_set_vring_err),
    Request.SET_VRING_ENABLE: _Rule(_set_vring_enable),
}
_WITH_ANSWER: Final = frozenset(request.value for request, rule in _RULES.items() if rule.answers)
