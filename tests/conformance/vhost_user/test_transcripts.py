"""What real front-ends said, said again: recorded from QEMU 7.2 and 10.0, DPDK 22.11 and user-mode Linux 6.1.

    = connection      a new one, or `= end` of the last          > REQUEST arguments [fds=N]     `!`: it wants a reply
    # event           what was done to the guest                 < REQUEST value                 the recorded answer
    * RING enabled    the guest kicks; the ring must run, and forward or (`disabled`) not

The recorded back-end offered more than vbackend does, so feature bits are cut down to what a front-end would have
acknowledged of ours; all other answers must be the recorded ones, and there must be none besides.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.support.qemu_peers import eventually
from tests.support.vhost_user import (
    NEED_REPLY,
    FakeRings,
    addresses,
    raw,
    region,
    send,
    state,
    table,
    u64,
)
from vbackend.vhost_user.events import Region, Request
from vbackend.vhost_user.features import PROTOCOL_FEATURES, Offer
from vbackend.vhost_user.protocol import FrontEnd
from vbackend.vhost_user.session import Session

TRANSCRIPTS: Final = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
CUT_DOWN: Final = ("GET_FEATURES", "GET_PROTOCOL_FEATURES")


def number(word: str) -> int:
    return int(word, 0)


def regions(words: Sequence[str]) -> list[Region]:
    values = [number(word) for word in words if word != "spare"]
    return [Region(*values[at : at + 4]) for at in range(0, len(values), 4)]


def placed(words: Sequence[str]) -> bytes:
    ring, flags, descriptors, used, available, log = map(number, words)
    return addresses(ring, descriptors, used, available, flags=flags, log=log)


PAYLOADS: Final[dict[str, Callable[[Sequence[str]], bytes]]] = {
    "SET_MEM_TABLE": lambda words: table(*regions(words), spare=words.count("spare")),
    "ADD_MEM_REG": lambda words: region(regions(words)[0]),
    "SET_VRING_ADDR": placed,
}


def payload_of(name: str, words: Sequence[str]) -> bytes:
    return PAYLOADS[name](words) if name in PAYLOADS else numbers(words)


def numbers(words: Sequence[str]) -> bytes:
    """A ring's state, a u64, or nothing."""
    if len(words) == 2:
        return state(*map(number, words))
    return u64(number(words[0])) if words else b""


class Replay:
    """Plays one transcript against a session with a recording engine."""

    def __init__(self, offer: Offer) -> None:
        self.offer: Final = offer
        self.rings = FakeRings()
        self.started: set[object] = set()
        self._peer: socket.socket | None = None
        self._session: Session | None = None
        self._ends: list[tuple[str, bool]] = []

    async def play(self, lines: Sequence[str]) -> None:
        for at, line in enumerate(lines):
            mark, *words = line.split()
            match mark:
                case "=":
                    await self.end()
                    if words == ["connection"]:
                        self._connect()
                case ">":
                    self._say(words, lines[at + 1 : at + 2])
                case "<":
                    await self._hear(*words)
                case "*":
                    await self._kicked(number(words[0]), enabled=words[1] == "enabled")
        await self.end()

    def _connect(self) -> None:
        self._peer, ours = socket.socketpair()
        self._peer.setblocking(False)
        self.rings = FakeRings()
        self._ends = []
        self._session = Session(
            ours,
            FrontEnd(self.offer),
            self.rings,
            1,
            before=lambda: None,
            on_end=lambda reason, orderly: self._ends.append((reason, orderly)),
        )

    def close(self) -> None:
        """Take away what a failure left."""
        if self._peer is not None and self._session is not None:
            self._peer.close()
            self._session.close()

    async def end(self) -> None:
        """The front-end goes away; until then nothing was wrong, and nothing was said that is not recorded."""
        if self._peer is None:
            return
        self._say(["GET_FEATURES"], [])
        await self._hear("GET_FEATURES", "0")
        with pytest.raises(BlockingIOError):
            self._peer.recv(1)
        self._peer.close()
        await eventually(lambda: self._ends, "the session's end")
        assert self._ends == [("the peer closed the connection", True)]
        self.started.update(call[0] for call in self.rings.of("start_ring"))
        self._peer = None

    def _say(self, words: Sequence[str], answer: Sequence[str]) -> None:
        assert self._peer is not None
        fds = number(words[-1].removeprefix("fds=")) if words[-1].startswith("fds=") else 0
        name, arguments = words[0].removesuffix("!"), list(words[1 : len(words) - bool(fds)])
        if name == "SET_FEATURES":
            arguments = [hex(number(arguments[0]) & int(self.offer.features))]
        if name == "SET_PROTOCOL_FEATURES":
            arguments = [hex(number(arguments[0]) & int(PROTOCOL_FEATURES))]
        if name == "GET_VRING_BASE":  # the ring moved on as it did then
            ring, base = map(number, answer[0].split()[2:])
            self.rings.stands[ring] = base
        flags = NEED_REPLY if words[0].endswith("!") else 0
        with Path(os.devnull).open() as file:
            message = raw(Request[name], payload_of(name, arguments), flags=flags)
            send(self._peer, message, [file.fileno()] * fds)

    async def _hear(self, name: str, *words: str) -> None:
        assert self._peer is not None
        async with asyncio.timeout(10):
            data = await asyncio.get_running_loop().sock_recv(self._peer, 20)
        request, flags, size = struct.unpack("=III", data[:12])
        assert (Request(request).name, flags, size) == (name, 5, 8)
        if name not in CUT_DOWN:
            assert data[12:] == numbers(words), f"{name} {words}"

    async def _kicked(self, ring: int, *, enabled: bool) -> None:
        assert self._session is not None
        self._say(["GET_FEATURES"], [])  # so that all before it was handled
        await self._hear("GET_FEATURES", "0")
        assert self._session.front.rings[ring].running
        assert ring in self.rings.stands
        assert self.rings.enabled.get(ring, False) == enabled


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
async def test_a_recorded_front_end_is_served_as_then(path: Path) -> None:
    replay = Replay(Offer(queues=2 if "2pairs" in path.stem else 1))
    try:
        await replay.play(path.read_text().splitlines())
    finally:
        replay.close()
    assert replay.started == set(range(replay.offer.rings))


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) == 6
