"""A lab's daemon on the test's own event loop, with guests that are programs passing for QEMU (fake_qemu.py)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.fake_qemu import fake_qemu
from tests.support.qemu_peers import eventually
from vbackend.control.client import ControlClient
from vbackend.lab import machines
from vbackend.lab.daemon import LabDaemon
from vbackend.lab.load import parse_lab
from vbackend.lab.machines import kill_qemus
from vbackend.lab.model import Lab
from vbackend.lab.state import LabFolder
from vbackend.lab.vm import Host
from vbackend.qemu.version import QemuVersion

__all__ = ["Yard", "two"]


class Yard:
    """Where daemons of lab `two` live."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        host = Host(fake_qemu(folder), QemuVersion(7, 2), "tcg")
        monkeypatch.setattr(machines, "_find_host", lambda: host)
        (folder / "disk").write_bytes(bytes(512))
        self.environ = {"XDG_RUNTIME_DIR": str(folder)}
        self.folder = LabFolder("two", self.environ)
        self.disk = str(folder / "disk")

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[tuple[LabDaemon, ControlClient]]:
        """A daemon that serves; at the end it is told to end, as by SIGTERM."""
        daemon = LabDaemon("two", self.environ)
        serving = asyncio.create_task(daemon.serve())
        try:
            await eventually(lambda: self.folder.control.exists() or serving.done(), "the daemon serves")
            async with ControlClient(str(self.folder.control)) as client:
                yield daemon, client
        finally:
            daemon.end()
            await serving

    def clean(self) -> None:
        """After the test: nothing runs on."""
        if self.folder.root.exists():
            kill_qemus(self.folder)


def two(disk: str, more: str = "", core: str = "") -> Lab:
    """Two VMs on a cable, and what else is wanted."""
    return parse_lab(
        f"""
name = "two"
[vm.a]
disk = "{disk}"
[vm.b]
disk = "{disk}"
{more}
[[cable]]
ends = ["a:eth0", "b:eth0"]
name = "core"
{core}
"""
    )
