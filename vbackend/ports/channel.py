"""Channel ports: the other end is Python code in this process. For tests and services.

Frames are `bytes` with an Ethernet header. Rule: nothing blocks; what the engine cannot take is dropped and
counted.
"""

import asyncio
import errno
from types import TracebackType
from typing import ClassVar, Self

from vbackend.dataplane import NativeChannel, SessionEnded
from vbackend.ports.base import Port, PortKind
from vbackend.ports.reasons import end_text

__all__ = ["Channel", "ChannelPort"]


class Channel:
    """Send and receive frames on a port. One task at a time may wait in `recv`."""

    def __init__(self, native: NativeChannel) -> None:
        self._native = native
        self._closed = False

    async def send(self, frame: bytes) -> bool:
        """Give one frame to the port. False: its queue is full and the frame was dropped."""
        return self._native.send(frame)

    async def send_all(self, frames: list[bytes]) -> int:
        """Give several; returns how many were taken."""
        return self._native.send_batch(frames)

    async def recv(self) -> bytes | None:
        """The next frame; None when the port is gone and nothing is left."""
        while not self._closed:
            try:
                frame = self._native.recv()
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return None
                raise
            if frame is not None:
                return frame
            await self._readable()
        return None

    def recv_ready(self) -> list[bytes]:
        """The frames that are here now, without waiting."""
        return self._native.recv_batch()

    def close(self) -> None:
        """End the port's session; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._native.close()

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        fd = self._native.fileno()
        loop.add_reader(fd, _wake, ready)
        try:
            await ready
        finally:
            loop.remove_reader(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ChannelPort(Port):
    """Has its one session from `open` until the channel is closed."""

    kind: ClassVar[PortKind] = "channel"
    channel: Channel

    async def open(self) -> None:
        assert self.engine_port is not None, "open comes after create"
        self.channel = Channel(self.context.dataplane.attach_channel(self.engine_port))
        self.started(-1, "Python")

    def ended(self, event: SessionEnded) -> None:
        """Whatever its session's number: there is only one."""
        self.finish(end_text(event.reason, event.value))

    def on_end(self) -> None:
        self.state, self.detail = "down", "its channel was closed"


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
