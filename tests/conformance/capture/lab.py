"""Two stations with `-netdev stream` on a backend, and `vbackend capture` beside it; its files are judged by others."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from tests.support.accounting import assert_accounts
from tests.support.frames import mac
from tests.support.pcapng import Capture, read
from tests.support.qemu_peers import FakeStreamPeer, eventually
from tests.support.run import VBACKEND
from vbackend.backend import Backend
from vbackend.control.server import ControlServer
from vbackend.ports.parse import parse_port
from vbackend.snapshot import PortSnapshot

__all__ = ["A", "B", "Client", "Lab", "capture_lab", "judged"]

A, B = mac(1), mac(2)


class Lab:
    def __init__(self, backend: Backend, folder: Path, control: str) -> None:
        self.backend = backend
        self.folder = folder
        self.control = control
        self.file = folder / "capture.pcapng"
        self.peers: dict[str, FakeStreamPeer] = {}

    async def connect(self, name: str) -> FakeStreamPeer:
        self.peers[name] = await FakeStreamPeer.connect(f"{self.folder}/{name}.sock")
        await eventually(lambda: self.port(name).state == "connected", f"{name} connected")
        return self.peers[name]

    async def add(self, name: str) -> FakeStreamPeer:
        await self.backend.add_port(parse_port(f"stream:unix:{self.folder}/{name}.sock,name={name}"))
        return await self.connect(name)

    async def remove(self, name: str) -> None:
        self.peers.pop(name).close()
        await self.backend.remove_port(name)

    def port(self, name: str) -> PortSnapshot:
        return next(port for port in self.backend.snapshot().ports if port.name == name)

    async def capture(self, *arguments: str, lab: str | None = None) -> "Client":
        """`vbackend capture`, from the moment when it captures."""
        where = ("--control", self.control) if lab is None else ("--lab", lab)
        child = await asyncio.create_subprocess_exec(
            *VBACKEND,
            "capture",
            *arguments,
            *("-w", str(self.file), *where),
            env={**os.environ, "XDG_RUNTIME_DIR": str(self.folder)},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        await eventually(lambda: self.file.exists() and self.file.stat().st_size, "the file has a head")
        return Client(self, child)


class Client:
    def __init__(self, lab: Lab, child: asyncio.subprocess.Process) -> None:
        self.lab = lab
        self.child = child

    async def end(self, *, signal: bool = True) -> tuple[Capture, str]:
        """Until its orderly end: the file, which the tools agree on, and what it said."""
        if signal:
            self.child.terminate()
        _, said = await asyncio.wait_for(self.child.communicate(), 20)
        assert self.child.returncode == 0, said
        found = read(self.lab.file)
        judged(self.lab.file, found)
        return found, said.decode()


def judged(file: Path, found: Capture) -> None:
    """tshark and tcpdump see what our own reader sees."""
    if shutil.which("tshark") is None:
        return
    fields = ("interface_name", "packet_flags_direction", "len", "cap_len", "comment")
    words = [word for field in fields for word in ("-e", f"frame.{field}")]
    rows = output(["tshark", "-n", "-r", str(file), "-T", "fields", *words])
    numbers = {"in": "0x00000001", "out": "0x00000002", "": ""}
    assert rows == [
        f"{one.interface}\t{numbers[one.direction]}\t{one.length}\t{len(one.data)}\t{one.comment or ''}"
        for one in found.packets
    ]
    assert len(output(["tcpdump", "-n", "-t", "-q", "-r", str(file)])) >= len(found.packets)


def output(command: list[str]) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "malformed" not in done.stdout.lower(), done.stdout
    return done.stdout.splitlines()


@asynccontextmanager
async def capture_lab(
    folder: Path, control: str, *, segment: Literal["switch", "cable"], name: str = "test"
) -> AsyncIterator[Lab]:
    """Stations a and b, connected."""
    async with Backend(name=name, segment=segment) as backend, ControlServer(control, version="1") as server:
        await backend.start([parse_port(f"stream:unix:{folder}/{name}.sock,name={name}") for name in "ab"])
        await server.serve(backend, lambda: None)
        lab = Lab(backend, folder, control)
        try:
            for station in "ab":
                await lab.connect(station)
            yield lab
            assert_accounts(backend.snapshot())
            assert not list(folder.glob("**/*.capture-*"))
        finally:
            for peer in lab.peers.values():
                peer.close()
