"""A backend with one VDE switch, as the tests of this folder want it.

client ── DIR/ctl, datagrams ── vde:DIR ── switch ── channel
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.support.accounting import assert_accounts
from tests.support.qemu_peers import eventually
from tests.support.vde_peers import FakeVdeClient
from vbackend.backend import Backend, BackendEvent
from vbackend.ports.channel import Channel
from vbackend.ports.parse import parse_port
from vbackend.snapshot import PortSnapshot

__all__ = ["Lab", "vde_lab"]


class Lab:
    """`channel` is another port of the switch; `directory` is the VDE switch's."""

    def __init__(self, backend: Backend, channel: Channel, folder: Path) -> None:
        self.backend: Final = backend
        self.channel: Final = channel
        self.folder: Final = folder
        self.directory: Final = folder / "sw"
        self.refused: Final[list[str]] = []
        backend.subscribe(self._note)

    async def plug(self, name: str, *, connected: bool = True) -> FakeVdeClient:
        """A client with a data socket of this name."""
        return await FakeVdeClient.plug(self.directory, self.folder / name, connected=connected)

    async def clients(self, count: int) -> None:
        """Wait until so many have ports."""
        await eventually(lambda: len(self.ports) == count, f"{count} clients have ports")

    async def refusals(self, *words: str) -> None:
        """Wait for these refusals and no other; each contains the words."""
        await eventually(lambda: len(self.refused) >= len(words), f"{len(words)} are refused")
        for reason, part in zip(self.refused, words, strict=True):
            assert part in reason
        self.refused.clear()

    @property
    def switch(self) -> PortSnapshot:
        return next(port for port in self.backend.snapshot().ports if port.name == "sw")

    @property
    def ports(self) -> list[PortSnapshot]:
        """Of the clients."""
        return [port for port in self.backend.snapshot().ports if port.parent == "sw"]

    def _note(self, event: BackendEvent) -> None:
        if event.name == "PORT_REFUSED":
            self.refused.append(str(event.data["reason"]))


@asynccontextmanager
async def vde_lab(folder: Path, keys: str = "") -> AsyncIterator[Lab]:
    """`keys`: more of the port, e.g. ",queue=8"."""
    async with Backend(name="test") as backend:
        await backend.start([parse_port(f"vde:{folder}/sw{keys}")])
        with await backend.open_channel("channel") as channel:
            yield Lab(backend, channel, folder)
            assert_accounts(backend.snapshot())
    assert not (folder / "sw").exists(), "nothing is left"
