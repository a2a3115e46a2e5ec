"""Requests in every order: the same knowledge makes the same rings, and the engine never hears nonsense."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from hypothesis import given
from hypothesis import strategies as st

from vbackend.errors import PeerError
from vbackend.fds import OwnedFd
from vbackend.vhost_user.events import (
    AddMemory,
    EnableRing,
    Message,
    Payload,
    Region,
    RemoveMemory,
    Request,
    RingAddresses,
    RingState,
    SetMemory,
    StartRing,
    StopRing,
)
from vbackend.vhost_user.features import PROTOCOL_FEATURES, Feature, Offer
from vbackend.vhost_user.protocol import FrontEnd

R = Request
Said = tuple[Request, Payload, int]  # request, payload, descriptors

MODERN = int(Feature.VERSION_1 | Feature.PROTOCOL_FEATURES)
LEGACY = int(Feature.VERSION_1)
REGIONS = [Region(number << 20, 1 << 20, (number + 1) << 32, 0) for number in range(3)]
RINGS = range(4)


def places(ring: int, region: Region, shift: int = 0) -> RingAddresses:
    at = region.user_address + ring * 0x10000 + shift
    return RingAddresses(ring, 0, at, at + 0x2000, at + 0x1000, 0)


class NaiveEngine:
    """What the engine has been told; every command is checked against it."""

    def __init__(self) -> None:
        self.regions: set[Region] = set()
        self.running: dict[int, StartRing] = {}
        self.enabled: dict[int, bool] = {}

    def tell(self, command: object, front: FrontEnd) -> None:
        match command:
            case SetMemory(regions, _):
                self.regions = set(regions)
            case AddMemory(region, _):
                assert region not in self.regions
                self.regions.add(region)
            case RemoveMemory(region):
                self.regions.remove(region)
            case StartRing(ring, size, _, addresses):
                assert ring not in self.running
                assert size > 0
                for at in (addresses.descriptors, addresses.driver, addresses.device):
                    assert any(r.user_address <= at < r.user_address + r.size for r in self.regions)
                self.running[ring] = command
            case StopRing(ring):
                front.stopped(ring, self.running.pop(ring).base + 1)
            case EnableRing(ring, enabled):
                assert self.enabled.get(ring, False) != enabled, "said twice"
                self.enabled[ring] = enabled
            case _:
                pass
        for number, run in self.running.items():
            possible = {places(number, region, shift) for region in self.regions for shift in (0, 64)}
            assert run.addresses in possible, "a ring runs where there is no memory"


@contextmanager
def descriptors() -> Iterator[list[OwnedFd]]:
    found = [OwnedFd(os.open(os.devnull, os.O_RDONLY)) for _ in range(3)]
    yield found
    for fd in found:
        fd.close()


def play(requests: Iterable[Said], fds: list[OwnedFd]) -> tuple[FrontEnd, NaiveEngine]:
    front, engine = FrontEnd(Offer(queues=2)), NaiveEngine()
    for request, payload, count in requests:
        before = set(engine.regions)
        try:
            step = front.handle(Message(request, payload, tuple(fds[:count])))
        except PeerError:
            assert engine.regions == before
            break
        for command in step.commands:
            engine.tell(command, front)
        assert engine.running.keys() == {at for at, ring in enumerate(front.rings) if ring.running}
        for ring in engine.running:
            assert engine.enabled.get(ring, False) == front.forwards(front.rings[ring])
        assert engine.regions == set(front.memory.regions)
    return front, engine


def setting_up(ring: int) -> list[Said]:
    return [
        (R.SET_VRING_NUM, RingState(ring, 256), 0),
        (R.SET_VRING_BASE, RingState(ring, 7), 0),
        (R.SET_VRING_ADDR, places(ring, REGIONS[0]), 0),
        (R.SET_VRING_KICK, ring, 1),
        (R.SET_VRING_CALL, ring, 1),
        (R.SET_VRING_ENABLE, RingState(ring, 1), 0),
    ]


SET_UP: list[Said] = [
    (R.SET_FEATURES, MODERN, 0),
    (R.SET_MEM_TABLE, (REGIONS[0],), 1),
    *setting_up(0),
    *setting_up(1),
]


@given(st.permutations(SET_UP))
def test_a_set_up_in_any_order_ends_in_the_same_rings(requests: list[Said]) -> None:
    """But for BASE after the start, which asks for a new kick: it says that the ring is to begin elsewhere."""
    firsts: dict[object, int] = {}
    for at, (request, payload, _) in enumerate(requests):
        firsts[(request, payload if isinstance(payload, int) else getattr(payload, "ring", None))] = at
    with descriptors() as fds:
        front, engine = play(requests, fds)
        for ring in (0, 1):
            last = max(
                firsts[(R.SET_FEATURES, MODERN)],
                firsts[(R.SET_MEM_TABLE, None)],
                *(
                    firsts[(request, ring)]
                    for request in (R.SET_VRING_NUM, R.SET_VRING_ADDR, R.SET_VRING_KICK)
                ),
            )
            if firsts[(R.SET_VRING_BASE, ring)] > last:
                assert ring not in engine.running
                front.handle(Message(R.SET_VRING_KICK, ring, (fds[0],)))
            else:
                assert engine.running[ring] == StartRing(ring, 256, 7, places(ring, REGIONS[0]))
                assert engine.enabled[ring]
            assert front.rings[ring].running


rings = st.sampled_from(RINGS)
regions = st.sampled_from(REGIONS)
anything: st.SearchStrategy[Said] = st.one_of(
    st.tuples(
        st.just(R.SET_FEATURES), st.sampled_from([MODERN, LEGACY, MODERN | 1 << 26, MODERN | 1]), st.just(0)
    ),
    st.lists(regions, max_size=3, unique=True).map(lambda some: (R.SET_MEM_TABLE, tuple(some), len(some))),
    st.tuples(st.just(R.ADD_MEM_REG), regions, st.just(1)),
    st.tuples(st.just(R.REM_MEM_REG), regions, st.just(0)),
    st.tuples(st.just(R.SET_VRING_NUM), st.builds(RingState, rings, st.sampled_from([1, 256])), st.just(0)),
    st.tuples(st.just(R.SET_VRING_BASE), st.builds(RingState, rings, st.integers(0, 9)), st.just(0)),
    st.tuples(
        st.just(R.SET_VRING_ADDR), st.builds(places, rings, regions, st.sampled_from([0, 64])), st.just(0)
    ),
    st.tuples(st.just(R.SET_VRING_KICK), rings, st.just(1)),
    st.tuples(st.just(R.SET_VRING_KICK), rings.map(lambda ring: ring | 0x100), st.just(0)),
    st.tuples(st.just(R.SET_VRING_ENABLE), st.builds(RingState, rings, st.integers(0, 1)), st.just(0)),
    st.tuples(st.just(R.GET_VRING_BASE), st.builds(RingState, rings, st.just(0)), st.just(0)),
    st.tuples(st.sampled_from([R.RESET_OWNER, R.RESET_DEVICE, R.GET_STATUS]), st.none(), st.just(0)),
    st.tuples(st.just(R.SET_STATUS), st.sampled_from([0, 15]), st.just(0)),
)


@given(st.lists(anything, max_size=60), st.booleans())
def test_any_order_keeps_the_engine_s_view(requests: list[Said], set_up: bool) -> None:
    start: list[Said] = [(R.SET_PROTOCOL_FEATURES, int(PROTOCOL_FEATURES), 0), *(SET_UP if set_up else [])]
    with descriptors() as fds:
        play([*start, *requests], fds)
