"""The control socket as a front-end has it: one small method for each step, which the caller may leave out,
repeat, put elsewhere or give wrong values. Blocking, with a deadline on everything.
"""

import os
import select
import socket
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Final, Self

from vbackend.testing.vhost.memory import DirtyLog, GuestMemory, Region
from vbackend.testing.vhost.ring import DriverRing
from vbackend.testing.vhost.wire import (
    BASIC_FEATURES,
    BASIC_PROTOCOL,
    NEED_REPLY,
    NO_FD,
    REPLY,
    VERSION,
    Feature,
    Message,
    Protocol,
    Request,
    log_area,
    memory_region,
    memory_table,
    message,
    receive,
    send,
    u64,
    vring_addr,
    vring_state,
)

__all__ = ["DEADLINE_S", "FrontEnd", "Queue", "RefusedError"]

DEADLINE_S: Final = 20.0


class RefusedError(Exception):
    """The back-end acknowledged a request with a value other than 0."""


class Queue:
    """A ring with the three event descriptors that belong to it, which it owns."""

    def __init__(self, index: int, ring: DriverRing) -> None:
        """`index` is the ring's number: 2k receives for pair k, 2k + 1 transmits."""
        self.index: Final = index
        self.ring: Final = ring
        self.kick, self.call, self.err = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(3))

    def notify(self) -> bool:
        """Publish what was posted; kick if the device wants it, and tell whether it did."""
        self.ring.publish()
        wanted = self.ring.kick_wanted()
        if wanted:
            os.eventfd_write(self.kick, 1)
        return wanted

    def calls(self) -> int:
        """How often the device called since the last time; does not wait."""
        return _take(self.call)

    def errors(self) -> int:
        """How often the device signalled an error since the last time; does not wait."""
        return _take(self.err)

    def wait_call(self, deadline: float) -> None:
        """Wait for a call and take it. TimeoutError at `deadline` (time.monotonic)."""
        ready, _, _ = select.select([self.call], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"ring {self.index}: no call")
        self.calls()

    def close(self) -> None:
        for fd in (self.kick, self.call, self.err):
            os.close(fd)


class FrontEnd:
    """One connection to a back-end. Owns the socket and the queues, but not the memory."""

    def __init__(self, sock: socket.socket, memory: GuestMemory) -> None:
        sock.settimeout(DEADLINE_S)
        self.sock: Final = sock
        self.memory: Final = memory
        self.features = Feature(0)
        self.protocol = Protocol(0)
        self.queues: list[Queue] = []

    @classmethod
    def connect(cls, path: str, memory: GuestMemory) -> Self:
        """Dial a back-end that listens."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(DEADLINE_S)
            sock.connect(path)
        except BaseException:
            sock.close()
            raise
        return cls(sock, memory)

    @classmethod
    def accept(cls, listener: socket.socket, memory: GuestMemory) -> Self:
        """Take the next connection of a back-end that dials."""
        listener.settimeout(DEADLINE_S)
        sock, _ = listener.accept()
        return cls(sock, memory)

    def send(self, request: int, payload: bytes = b"", fds: Iterable[int] = (), *, ack: bool = False) -> None:
        """One message; with `ack` the back-end is to answer it, and the caller to read that."""
        flags = VERSION | (NEED_REPLY if ack else 0)
        send(self.sock, message(request, payload, flags=flags), fds)

    def ask(self, request: int, payload: bytes = b"", fds: Iterable[int] = ()) -> Message:
        """A request that has a reply of its own. AssertionError when another message comes."""
        self.send(request, payload, fds)
        return self.reply(request)

    def reply(self, request: int) -> Message:
        """Wait for the reply to `request`."""
        got = receive(self.sock)
        assert (got.request, got.flags) == (request, VERSION | REPLY), f"not a reply to {request}: {got}"
        return got

    def tell(self, request: int, payload: bytes = b"", fds: Iterable[int] = ()) -> None:
        """A request without a reply of its own; with REPLY_ACK its success is asked for.

        RefusedError when it failed, EOFError when the back-end hung up instead.
        """
        ack = Protocol.REPLY_ACK in self.protocol
        self.send(request, payload, fds, ack=ack)
        if ack and (value := self.reply(request).u64()) != 0:
            raise RefusedError(f"{Request(request).name}: {value}")

    def offered(self) -> Feature:
        return Feature(self.ask(Request.GET_FEATURES).u64())

    def offered_protocol(self) -> Protocol:
        return Protocol(self.ask(Request.GET_PROTOCOL_FEATURES).u64())

    def negotiate(self, features: Feature = BASIC_FEATURES, protocol: Protocol = BASIC_PROTOCOL) -> None:
        """Become the owner and acknowledge exactly these. AssertionError when one was not offered."""
        offered = self.offered()
        assert features in offered, f"not offered: {features & ~offered!r}"
        if Feature.PROTOCOL_FEATURES in features:
            known = self.offered_protocol()
            assert protocol in known, f"not offered: {protocol & ~known!r}"
            self.set_protocol(protocol)
        self.tell(Request.SET_OWNER)
        self.set_features(features)

    def set_features(self, features: Feature) -> None:
        self.tell(Request.SET_FEATURES, u64(features))
        self.features = features

    def set_protocol(self, protocol: Protocol) -> None:
        """Never acknowledged: it is what makes acknowledgements possible."""
        self.send(Request.SET_PROTOCOL_FEATURES, u64(protocol))
        self.protocol = protocol

    def set_memory(self, regions: Sequence[Region] | None = None) -> None:
        """The whole table: `regions` instead of what the memory is."""
        table = self.memory.regions if regions is None else regions
        payload = memory_table([region.wire for region in table])
        self.tell(Request.SET_MEM_TABLE, payload, [region.fd for region in table])

    def add_memory(self, region: Region) -> None:
        self.tell(Request.ADD_MEM_REG, memory_region(region.wire), [region.fd])

    def remove_memory(self, region: Region) -> None:
        self.tell(Request.REM_MEM_REG, memory_region(region.wire))

    def set_log(self, log: DirtyLog) -> None:
        """Where to mark pages; answered with an empty reply or a number, by the age of the back-end."""
        self.ask(Request.SET_LOG_BASE, log_area(log.size, 0), [log.fd])

    def add(self, ring: DriverRing) -> Queue:
        """Give `ring` the next number and its event descriptors; the back-end is not told."""
        queue = Queue(len(self.queues), ring)
        self.queues.append(queue)
        return queue

    def start(self, queue: Queue, *, base: int | None = None) -> None:
        """Every step, in QEMU's order, but for `enable`."""
        self.set_num(queue)
        self.set_base(queue, base)
        self.set_addr(queue)
        self.set_kick(queue)
        self.set_call(queue)
        self.set_err(queue)

    def set_num(self, queue: Queue, size: int | None = None) -> None:
        self.tell(Request.SET_VRING_NUM, vring_state(queue.index, queue.ring.size if size is None else size))

    def set_base(self, queue: Queue, base: int | None = None) -> None:
        self.tell(Request.SET_VRING_BASE, vring_state(queue.index, queue.ring.base if base is None else base))

    def set_addr(self, queue: Queue, *, log: bool = False) -> None:
        """`log`: writes to the device area are marked too."""
        ring, user = queue.ring, self.memory.user_address
        areas = user(ring.descriptors), user(ring.device), user(ring.driver)
        payload = vring_addr(queue.index, *areas, log=ring.device if log else 0, flags=int(log))
        self.tell(Request.SET_VRING_ADDR, payload)

    def set_kick(self, queue: Queue, fd: int | None = None) -> None:
        """`fd`: another than the queue's own; -1 for none, so that the back-end polls."""
        self._set_fd(Request.SET_VRING_KICK, queue, queue.kick if fd is None else fd)

    def set_call(self, queue: Queue, fd: int | None = None) -> None:
        """`fd`: another than the queue's own; -1 for none, so that the back-end never calls."""
        self._set_fd(Request.SET_VRING_CALL, queue, queue.call if fd is None else fd)

    def set_err(self, queue: Queue, fd: int | None = None) -> None:
        """`fd`: another than the queue's own; -1 for none."""
        self._set_fd(Request.SET_VRING_ERR, queue, queue.err if fd is None else fd)

    def enable(self, queue: Queue, on: bool = True) -> None:
        self.tell(Request.SET_VRING_ENABLE, vring_state(queue.index, int(on)))

    def stop(self, queue: Queue) -> int:
        """Stop the ring; returns the base that the back-end tells."""
        answer = self.ask(Request.GET_VRING_BASE, vring_state(queue.index, 0)).payload
        assert answer[:4] == queue.index.to_bytes(4, "little"), f"base of another ring: {answer.hex()}"
        return int.from_bytes(answer[4:], "little")

    def barrier(self) -> None:
        """Wait until all requests before this were carried out."""
        self.offered()

    def expect_end(self) -> None:
        """Wait for the back-end to hang up; replies that come first are forgotten. TimeoutError when it does not."""
        try:
            while True:
                for fd in receive(self.sock).fds:
                    os.close(fd)
        except EOFError:
            return

    def close(self) -> None:
        """Hang up without a word, as a killed process does."""
        self.sock.close()
        for queue in self.queues:
            queue.close()
        self.queues.clear()

    def _set_fd(self, request: Request, queue: Queue, fd: int) -> None:
        if fd < 0:
            self.tell(request, u64(queue.index | NO_FD))
        else:
            self.tell(request, u64(queue.index), [fd])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _take(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0
