"""A network driver that behaves: pairs of queues that send and receive frames (VIRTIO 1.2 §5.1.6).

    with Nic.connect(path, packed=True, features=Feature.MRG_RXBUF) as nic:
        nic.pairs[0].send(frame)
        frame = nic.pairs[0].recv().frame

Blocking: what is waited for happens in another process or thread, and has a deadline.
"""

import socket
import struct
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from vbackend.testing.vhost.frontend import DEADLINE_S, FrontEnd, Queue
from vbackend.testing.vhost.memory import GuestMemory
from vbackend.testing.vhost.packed import PackedRing
from vbackend.testing.vhost.ring import Buffer, DriverRing, RingFullError, Used
from vbackend.testing.vhost.split import SplitRing
from vbackend.testing.vhost.wire import BASIC_FEATURES, BASIC_PROTOCOL, Feature, Protocol

__all__ = ["HEADER_LEN", "NO_FEATURES", "PLAIN", "Nic", "Pair", "Received", "VnetHeader", "cut", "make_ring"]

HEADER_LEN: Final = 12
NO_FEATURES: Final = Feature(0)
_HEADER: Final = struct.Struct("<BBHHHHH")
_RX_DEPTH: Final = 64


class VnetHeader(NamedTuple):
    """`struct virtio_net_hdr_mrg_rxbuf`."""

    flags: int = 0
    gso_type: int = 0
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0
    num_buffers: int = 0

    def pack(self) -> bytes:
        return _HEADER.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        return cls(*_HEADER.unpack(data[:HEADER_LEN]))


PLAIN: Final = VnetHeader()


@dataclass(frozen=True, slots=True)
class Received:
    """A frame with its header and the bytes it took of each chain."""

    header: VnetHeader
    frame: bytes
    lengths: tuple[int, ...]


def cut(total: int, lengths: Iterable[int]) -> list[int]:
    """`total` in pieces of these lengths; what is left over is the last piece."""
    pieces = []
    for length in lengths:
        if total > 0:
            pieces.append(min(length, total))
            total -= length
    return [*pieces, total] if total > 0 else pieces


def make_ring(memory: GuestMemory, size: int, features: Feature, *, split_start: int = 0) -> DriverRing:
    """A ring of the layout and kind that was negotiated; `split_start`: where a split one's indexes begin."""
    event_idx, in_order = Feature.EVENT_IDX in features, Feature.IN_ORDER in features
    if Feature.RING_PACKED in features:
        return PackedRing(memory, size, event_idx=event_idx, in_order=in_order)
    return SplitRing(memory, size, event_idx=event_idx, in_order=in_order, start=split_start)


class Pair:
    """One receive and one transmit queue, both running once `start` was called."""

    def __init__(
        self,
        front: FrontEnd,
        size: int = 256,
        *,
        rx_chain: Sequence[int] = (2048,),
        tx_cuts: Sequence[int] = (),
        indirect: bool = False,
        split_start: int = 0,
    ) -> None:
        """`rx_chain`: lengths of the buffers in each receive chain. `tx_cuts`: lengths of the pieces that header and
        frame are sent in, the rest being one more. `indirect`: chains lie in tables of their own.
        """
        self.front = front
        self.rx = front.add(make_ring(front.memory, size, front.features, split_start=split_start))
        self.tx = front.add(make_ring(front.memory, size, front.features, split_start=split_start))
        self.rx_chain, self.tx_cuts, self.indirect = tuple(rx_chain), tuple(tx_cuts), indirect
        self._chains: dict[tuple[int, int], list[Buffer]] = {}
        self._free: dict[int, list[int]] = defaultdict(list)
        self._arrived: list[tuple[int, list[Buffer]]] = []  # bytes written, and where

    def use(self, length: int, addresses: Iterable[int]) -> None:
        """Take these places for the next buffers of that length."""
        self._free[length] += addresses

    def forget(self, length: int) -> None:
        """Do not use again what was a buffer of that length."""
        del self._free[length]

    def move_to(self, front: FrontEnd) -> None:
        """Go on with the rings as they are on another connection; `start` begins at what the device returned last."""
        self.front = front
        self.rx, self.tx = front.add(self.rx.ring), front.add(self.tx.ring)
        self.reap_sent()
        self._collect()

    def start(self, *, enable: bool = True) -> None:
        """Tell the back-end of both rings and fill the receiving one."""
        for queue in (self.rx, self.tx):
            self.front.start(queue)
            if enable and Feature.PROTOCOL_FEATURES in self.front.features:
                self.front.enable(queue)
        self.fill()

    @property
    def next_place(self) -> int:
        """The address of the buffer that the next frame should come to."""
        return self._chains[self.rx.index, self.rx.ring.in_flight[0]][0].address

    def fill(self, depth: int = _RX_DEPTH) -> None:
        """Post receive chains until there are `depth` or the ring is full."""
        while len(self.rx.ring.in_flight) < depth:
            try:
                self._post(self.rx, [(length, True) for length in self.rx_chain])
            except RingFullError:
                break
        self.rx.notify()

    def queue(self, frame: bytes, header: VnetHeader = PLAIN) -> int:
        """Post a frame without publishing it; returns the chain's id. RingFullError when it must wait."""
        return self.queue_raw(header.pack() + frame)

    def queue_raw(self, data: bytes) -> int:
        """The same with any bytes for header and frame."""
        lengths = cut(len(data), self.tx_cuts) or [0]
        id_ = self._post(self.tx, [(length, False) for length in lengths])
        for buffer in self._chains[self.tx.index, id_]:
            self.front.memory.write(buffer.address, data[: buffer.length])
            data = data[buffer.length :]
        return id_

    def send(self, frame: bytes, header: VnetHeader = PLAIN, *, deadline_s: float = DEADLINE_S) -> int:
        """Post a frame, waiting for room, and notify. TimeoutError when there is none."""
        deadline = time.monotonic() + deadline_s
        while True:
            self.reap_sent()
            try:
                id_ = self.queue(frame, header)
                break
            except RingFullError:
                self.tx.notify()
                self._wait(self.tx, deadline)
        self.tx.notify()
        return id_

    def reap_sent(self) -> list[Used]:
        """Take back what was sent; it must have length 0, since the device wrote nothing."""
        done = self.tx.ring.reap()
        for used in done:
            assert used.length == 0, f"{used.length} bytes written into a chain to be read"
            self._give_back(self._chains.pop((self.tx.index, used.id)))
        return done

    def flush(self) -> None:
        """Wait until all frames posted were taken."""
        self.tx.notify()
        deadline = time.monotonic() + DEADLINE_S
        self.reap_sent()
        while self.tx.ring.in_flight:
            self._wait(self.tx, deadline)
            self.reap_sent()

    def recv(self, *, deadline_s: float = DEADLINE_S) -> Received:
        """The next frame, waiting for it; its buffers are posted again. TimeoutError when none comes."""
        deadline = time.monotonic() + deadline_s
        while (got := self.take()) is None:
            self._wait(self.rx, deadline)
        self.fill()
        return got

    def take(self) -> Received | None:
        """The next frame if it is there. AssertionError when num_buffers is not what it must be."""
        self._collect()
        if not self._arrived:
            return None
        header = VnetHeader.unpack(self._content(*self._arrived[0]))
        mergeable = Feature.MRG_RXBUF in self.front.features
        assert header.num_buffers >= 1 if mergeable else header.num_buffers == 1, header  # §5.1.6.4.1
        if len(self._arrived) < header.num_buffers:
            return None
        parts, self._arrived = self._arrived[: header.num_buffers], self._arrived[header.num_buffers :]
        data = b"".join(self._content(*part) for part in parts)
        for _, buffers in parts:
            self._give_back(buffers)
        return Received(header, data[HEADER_LEN:], tuple(length for length, _ in parts))

    def _collect(self) -> None:
        for used in self.rx.ring.reap():  # its id is free from now on, its buffers are not
            self._arrived.append((used.length, self._chains.pop((self.rx.index, used.id))))

    def _post(self, queue: Queue, pieces: Sequence[tuple[int, bool]]) -> int:
        buffers = [Buffer(self._allocate(length), length, writable) for length, writable in pieces]
        try:
            id_ = queue.ring.post(buffers, indirect=self.indirect)
        except RingFullError:
            self._give_back(buffers)
            raise
        self._chains[queue.index, id_] = buffers
        return id_

    def _allocate(self, length: int) -> int:
        free = self._free[length]
        return free.pop() if free else self.front.memory.allocate(length)

    def _give_back(self, buffers: Iterable[Buffer]) -> None:
        for buffer in buffers:
            self._free[buffer.length].append(buffer.address)

    def _content(self, length: int, buffers: Sequence[Buffer]) -> bytes:
        """The first `length` bytes of a chain."""
        places = zip(buffers, cut(length, [buffer.length for buffer in buffers]), strict=False)
        return b"".join(self.front.memory.read(buffer.address, part) for buffer, part in places)

    def _wait(self, queue: Queue, deadline: float) -> None:
        """Wait for a call, unless something was used while it was asked for."""
        queue.ring.want_calls()
        if not queue.ring.used_waiting:
            queue.wait_call(deadline)


class Nic:
    """A front-end with all its pairs running; its memory goes with it."""

    def __init__(self, front: FrontEnd, pairs: Sequence[Pair]) -> None:
        self.front: Final = front
        self.pairs: Final = pairs

    @classmethod
    def connect(
        cls,
        place: str | socket.socket,
        *,
        features: Feature = NO_FEATURES,
        protocol: Protocol = BASIC_PROTOCOL,
        pairs: int = 1,
        size: int = 256,
        memory: GuestMemory | None = None,
        **options: Any,
    ) -> Self:
        """`place`: the path to dial, or a listening socket. `features`: besides BASIC_FEATURES, and MQ for pairs.

        `options`: those of `Pair`.
        """
        memory = GuestMemory() if memory is None else memory
        try:
            front = (
                FrontEnd.connect(place, memory) if isinstance(place, str) else FrontEnd.accept(place, memory)
            )
        except BaseException:
            memory.close()
            raise
        return cls.start(front, features=features, protocol=protocol, pairs=pairs, size=size, **options)

    @classmethod
    def start(
        cls,
        front: FrontEnd,
        *,
        features: Feature = NO_FEATURES,
        protocol: Protocol = BASIC_PROTOCOL,
        pairs: int = 1,
        size: int = 256,
        **options: Any,
    ) -> Self:
        """On a connection that nothing was said on; takes it and its memory. Arguments as those of `connect`."""
        made: list[Pair] = []
        nic = cls(front, made)
        try:
            front.negotiate(BASIC_FEATURES | features | (Feature.MQ if pairs > 1 else NO_FEATURES), protocol)
            front.set_memory()
            for _ in range(pairs):
                made.append(Pair(front, size, **options))
                made[-1].start()
            front.barrier()
        except BaseException:
            nic.close()
            raise
        return nic

    def close(self) -> None:
        """Hang up without a word and let go of the memory."""
        self.front.close()
        self.front.memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
