"""vhost-user from the other side: requests as raw bytes, and an engine that only writes down what it is told.

The bytes are made with `struct`, not with vbackend's own codec, so that each checks the other.
"""

import array
import socket
import struct
from collections.abc import Sequence
from typing import Final

from vbackend.dataplane import Dataplane, DataplaneEvent
from vbackend.fds import OwnedFd
from vbackend.vhost_user.events import Region

__all__ = [
    "NEED_REPLY",
    "FakeDataplane",
    "FakeRings",
    "addresses",
    "log",
    "raw",
    "region",
    "send",
    "state",
    "table",
    "u64",
]

NEED_REPLY: Final = 0x8
_VERSION: Final = 0x1


def raw(request: int, payload: bytes = b"", *, flags: int = 0, size: int | None = None) -> bytes:
    """A whole request of version 1. `size`: what the header says, if not the truth."""
    return struct.pack("=III", request, _VERSION | flags, len(payload) if size is None else size) + payload


def u64(value: int) -> bytes:
    return struct.pack("=Q", value)


def state(ring: int, number: int) -> bytes:
    return struct.pack("=II", ring, number)


def addresses(
    ring: int, descriptors: int, used: int, available: int, *, flags: int = 0, log: int = 0
) -> bytes:
    return struct.pack("=IIQQQQ", ring, flags, descriptors, used, available, log)


def region(one: Region) -> bytes:
    """The payload of ADD_MEM_REG and REM_MEM_REG."""
    return bytes(8) + _region(one)


def table(*regions: Region, count: int | None = None, spare: int = 0) -> bytes:
    """The payload of SET_MEM_TABLE; `spare` regions of room stay unused."""
    number = len(regions) if count is None else count
    return struct.pack("=II", number, 0) + b"".join(map(_region, regions)) + bytes(32 * spare)


def log(size: int, offset: int) -> bytes:
    return struct.pack("=QQ", size, offset)


def send(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send bytes with descriptors, which stay the caller's."""
    rights = array.array("i", fds)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if fds else []
    sent = sock.sendmsg([data], ancillary)
    assert sent == len(data), f"{sent} of {len(data)} bytes went out"


def _region(one: Region) -> bytes:
    return struct.pack("=QQQQ", one.guest_address, one.size, one.user_address, one.offset)


class FakeRings:
    """An engine for one vhost-user port, as far as Python sees it; takes and closes descriptors as the real one.

    `calls`: what was called, by the name without `vhost_`, with its arguments but for the port; a descriptor is "fd".
    `stands`: where each running ring is; a ring that stops moved on by `moves`. `fail`: errors to raise, by name.
    """

    def __init__(self, *, moves: int = 0) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.ports: set[int] = set()
        self.stands: dict[int, int] = {}
        self.enabled: dict[int, bool] = {}
        self.moves = moves
        self.fail: dict[str, ValueError | OSError] = {}
        self.attached = 0

    def of(self, name: str) -> list[tuple[object, ...]]:
        """The arguments of the calls of one name."""
        return [call[1:] for call in self.calls if call[0] == name]

    def attach_vhost(self, port: int, *, busy_poll_us: int = 0) -> int:
        self._note(port, "attach", busy_poll_us)
        self.attached += 1
        return self.attached

    def vhost_features(self, port: int, features: int) -> None:
        self._note(port, "features", features)

    def vhost_set_memory(self, port: int, regions: Sequence[tuple[int, int, int, int, OwnedFd]]) -> None:
        fds = [region[4] for region in regions]
        self._note(port, "set_memory", tuple(Region(*region[:4]) for region in regions), *fds)

    def vhost_add_memory(
        self, port: int, guest_address: int, size: int, user_address: int, offset: int, fd: OwnedFd
    ) -> None:
        self._note(port, "add_memory", Region(guest_address, size, user_address, offset), fd)

    def vhost_remove_memory(self, port: int, guest_address: int, size: int, user_address: int) -> None:
        self._note(port, "remove_memory", guest_address, size, user_address)

    def vhost_start_ring(
        self, port: int, ring: int, *, size: int, base: int, descriptors: int, driver: int, device: int
    ) -> None:
        self._note(port, "start_ring", ring, size, base, descriptors, driver, device)
        self.stands[ring] = base

    def vhost_stop_ring(self, port: int, ring: int) -> int | None:
        self._note(port, "stop_ring", ring)
        base = self.stands.pop(ring, None)
        return None if base is None else base + self.moves

    def vhost_enable_ring(self, port: int, ring: int, enabled: bool) -> None:
        self._note(port, "enable_ring", ring, enabled)
        self.enabled[ring] = enabled

    def vhost_set_kick(self, port: int, ring: int, fd: OwnedFd | None) -> None:
        self._note(port, "set_kick", ring, fd)

    def vhost_set_call(self, port: int, ring: int, fd: OwnedFd | None) -> None:
        self._note(port, "set_call", ring, fd)

    def vhost_set_err(self, port: int, ring: int, fd: OwnedFd | None) -> None:
        self._note(port, "set_err", ring, fd)

    def vhost_set_log(self, port: int, size: int, offset: int, fd: OwnedFd | None) -> None:
        self._note(port, "set_log", size, offset, fd)

    def vhost_set_log_call(self, port: int, fd: OwnedFd | None) -> None:
        self._note(port, "set_log_call", fd)

    def inject(self, port: int, frame: bytes) -> None:
        self._note(port, "inject", frame)

    def vhost_rings(self, port: int) -> list[dict[str, int]]:
        return [
            {
                "ring": ring,
                "running": 1,
                "enabled": 1,
                "size": 256,
                "kicks": 3,
                "calls": 2,
                "frames": 1,
                "packed": 0,
            }
            for ring in sorted(self.stands)
            if port in self.ports
        ]

    def _note(self, port: int, name: str, *arguments: object) -> None:
        self.ports.add(port)
        for argument in arguments:
            if isinstance(argument, OwnedFd):
                OwnedFd(argument.detach()).close()
        shown = tuple("fd" if isinstance(argument, OwnedFd) else argument for argument in arguments)
        self.calls.append((name, *shown))
        if name in self.fail:
            raise self.fail[name]


class FakeDataplane(FakeRings, Dataplane):
    """The real engine, but for vhost-user sessions, which are only written down.

    `reports`: events the engine is to have reported when it is asked next.
    """

    def __init__(self, workers: int = 1) -> None:
        Dataplane.__init__(self, workers)
        FakeRings.__init__(self)
        self.reports: list[DataplaneEvent] = []

    def drain_events(self) -> list[DataplaneEvent]:
        reports, self.reports = self.reports, []
        return [*Dataplane.drain_events(self), *reports]

    def detach(self, port: int) -> None:
        self._note(port, "detach")
