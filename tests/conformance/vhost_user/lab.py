"""A `vbackend run` with vhost-user ports on one switch: `bad` for whatever a test does to it, `x` and `y` beside it.

with lab.undisturbed(), lab.front("bad") as front:   # x and y exchange frames all the while, intact
    ...
# `bad` takes the next front-end, no descriptor was leaked, the accounts add up
"""

import itertools
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support.accounting import assert_accounts
from tests.support.frames import BROADCAST, MAX_FRAME, MIN_FRAME, frame, mac, numbered, stream
from tests.support.run import Run, vbackend_run
from vbackend.snapshot import PortSnapshot, RingSnapshot
from vbackend.testing.vhost.frontend import DEADLINE_S, FrontEnd
from vbackend.testing.vhost.memory import GuestMemory
from vbackend.testing.vhost.nic import NO_FEATURES, Nic, Pair
from vbackend.testing.vhost.wire import BASIC_FEATURES, BASIC_PROTOCOL, Feature, Protocol

__all__ = ["BAD", "SINK", "Lab", "X", "Y", "end_turn", "exchange", "expect", "sink_lab", "vhost_lab"]

X: Final = mac(1)
Y: Final = mac(2)
BAD: Final = mac(3)
SINK: Final = mac(0xABCDE)
_PORTS: Final = ("bad", "x", "y")
_LEAST_FRAMES: Final = 50  # between the bystanders, while a test misbehaves


class Lab:
    """The running process, and front-ends for its ports."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run: Final = run
        self._folder = folder
        self.expect_descriptors()

    def expect_descriptors(self) -> None:
        """As many open files as now are what there should be when no front-end is connected."""
        self._descriptors = self.descriptors()

    def path(self, name: str) -> str:
        return str(self._folder / name)

    def nic(self, name: str, **options: Any) -> Nic:
        """A well-behaved driver on a port, connected and running; `options` as for `Nic.connect`."""
        nic = Nic.connect(self.path(name), **options)
        self.run.wait_connected(name)
        return nic

    @contextmanager
    def front(
        self,
        name: str,
        features: Feature = NO_FEATURES,
        protocol: Protocol = BASIC_PROTOCOL,
        *,
        memory: GuestMemory | None = None,
    ) -> Iterator[FrontEnd]:
        """A front-end that has negotiated and given its memory, but has no rings yet."""
        own = GuestMemory() if memory is None else memory
        with own, FrontEnd.connect(self.path(name), own) as front:
            front.negotiate(BASIC_FEATURES | features, protocol)
            front.set_memory()
            yield front

    def port(self, name: str) -> PortSnapshot:
        return self.run.port(name)

    def ring(self, name: str, index: int) -> RingSnapshot:
        """What `show` tells of a ring. AssertionError when it tells nothing."""
        vhost = self.port(name).vhost
        rings = {ring.index: ring for ring in vhost.rings} if vhost else {}
        assert index in rings, f"port {name} shows no ring {index}: {vhost}"
        return rings[index]

    def wait_problem(self, name: str, index: int, text: str) -> None:
        """Wait until `show` tells that a ring was stopped, for a reason that has `text` in it."""
        self.wait_for(lambda: text in self.ring(name, index).problem, f"{text!r}, for ring {index}")
        assert not self.ring(name, index).running

    def wait_end(self, name: str, text: str) -> None:
        """Wait until a port's session is over, for a reason that has `text` in it."""
        self.wait_for(lambda: self.port(name).session is None, f"the end of {name}'s session")
        assert text in self.port(name).last_end, self.port(name).last_end

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        self.run.wait_for(condition, what)

    def descriptors(self) -> int:
        """How many files the process has open."""
        return sum(1 for _ in Path(f"/proc/{self.run.pid}/fd").iterdir())

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Traffic between x and y during the block; afterwards everything is as if `bad` had never been there."""
        with self.nic("x") as x, self.nic("y") as y:
            exchange(x.pairs[0], X, y.pairs[0], Y)
            with _traffic(x.pairs[0], y.pairs[0]):
                yield
            self.wait_for(lambda: self.port("bad").session is None, "the end of bad's session")
            with self.nic("bad") as bad:
                exchange(bad.pairs[0], BAD, x.pairs[0], X)
            for name in ("x", "y"):
                assert self.port(name).rx.drops == {}, self.port(name)
        self.settle()

    def settle(self) -> None:
        """Wait until no port has a session nor the process a descriptor of one, and check the accounts."""
        self.wait_for(lambda: all(self.port(name).session is None for name in _PORTS), "all have left")
        self.wait_for(
            lambda: self.descriptors() <= self._descriptors, "as few open files as in the beginning"
        )
        assert_accounts(self.run.snapshot())


def end_turn(front: FrontEnd) -> None:
    """Wait until the port's worker has ended what it is at: requests are carried out between two turns."""
    front.set_err(front.queues[0])


def exchange(one: Pair, one_mac: bytes, other: Pair, other_mac: bytes, sizes: Sequence[int] = (60,)) -> None:
    """A frame of each size there and back, compared; what is for others in between is passed over."""
    for size in sizes:
        for source, source_mac, target, target_mac in (
            (one, one_mac, other, other_mac),
            (other, other_mac, one, one_mac),
        ):
            sent = frame(target_mac, source_mac, bytes(range(256)) * (size // 256 + 1))[:size]
            source.send(sent)
            assert expect(target, target_mac) == sent


def expect(pair: Pair, own: bytes) -> bytes:
    """The next frame to this address; what is for others is passed over."""
    while True:
        got = pair.recv().frame
        if got[:6] == own:
            return got


@contextmanager
def _traffic(x: Pair, y: Pair) -> Iterator[None]:
    """Frames from x to y and back during the block, each compared, and some for `bad`, which may do what it likes."""
    over, count, failures = threading.Event(), itertools.count(), list[BaseException]()

    def forward() -> None:
        try:
            while next(count) < _LEAST_FRAMES or not over.is_set():
                x.send(to_bad)
                for source, target, sent in ((x, y, to_y), (y, x, to_x)):
                    for each in sent:
                        source.send(each)
                    for each in sent:
                        assert expect(target, each[:6]) == each
        except BaseException as failure:  # noqa: BLE001 - it is raised where the thread is waited for
            failures.append(failure)

    to_bad = frame(BAD, X, size=1000)
    to_x, to_y = numbered(X, Y, 4, size=600), numbered(Y, X, 4, size=1514)
    thread = threading.Thread(target=forward)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(2 * DEADLINE_S)
    assert not thread.is_alive(), "the bystanders' traffic hangs"
    if failures:
        raise AssertionError("the bystanders' traffic was disturbed") from failures[0]


@contextmanager
def vhost_lab(folder: Path, *ports: str, more: Sequence[str] = ()) -> Iterator[Lab]:
    """`ports`: what follows vhost-user:PATH for each of bad, x and y, such as "queues=4" (default: nothing).

    `more`: other ports on the same switch.
    """
    options = (*ports, *[""] * (len(_PORTS) - len(ports)))
    specs = [
        f"vhost-user:{folder / name}{',' if option else ''}{option}"
        for name, option in zip(_PORTS, options, strict=True)
    ]
    with vbackend_run(folder, *specs, *more) as run:
        yield Lab(run, folder)


@contextmanager
def sink_lab(folder: Path, bad: str = "", sink: str = "") -> Iterator[tuple[Lab, socket.socket]]:
    """The same with a fourth port, a stream, and its peer's socket to send frames on: what comes there is seen to be
    frames, and forgotten.

    `bad`, `sink`: keys of those ports.
    """
    with vhost_lab(folder, bad, more=[f"stream:unix:{folder}/sink{',' if sink else ''}{sink}"]) as made:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"{folder}/sink")
            sock.sendall(stream(frame(BROADCAST, SINK)))
            made.wait_for(lambda: made.port("sink").rx.frames_out == 1, "its address is learned")
            odd: list[int] = []
            thread = threading.Thread(target=_read, args=(sock, odd))
            thread.start()
            made.expect_descriptors()
            try:
                yield made, sock
            finally:
                sock.shutdown(socket.SHUT_RDWR)
                thread.join(20)
        assert odd == [], "lengths that no frame has"


def _read(sock: socket.socket, odd: list[int]) -> None:
    with sock.makefile("rb") as wire:
        while len(prefix := wire.read(4)) == 4:
            length = int.from_bytes(prefix, "big")
            if not MIN_FRAME <= length <= MAX_FRAME:
                odd.append(length)
                return
            wire.read(length)
