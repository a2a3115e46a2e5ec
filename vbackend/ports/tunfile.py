"""Tunfile ports: the device face of a tun unit for a program in this process."""

import asyncio
from typing import ClassVar

from vbackend.ports.base import PortKind
from vbackend.ports.spec import UnitSpec
from vbackend.ports.unitport import PortWithUnit

__all__ = ["TunFilePort"]


class TunFilePort(PortWithUnit):
    """Has its one session from `open` until the file is closed, from whatever thread."""

    kind: ClassVar[PortKind] = "tunfile"
    spec: UnitSpec

    @property
    def adapter_name(self) -> str:
        return f"tunfile {self.name}"

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self.open_file()
        self.interface.on_close = lambda: loop.call_soon_threadsafe(self.finish, "its file was closed")
        self.started(-1, "Python")

    def forget(self) -> None:
        self.interface.on_close = None
        self.file = None  # the program's to close; until then it finds its unit gone, as a zombie's (D2)
        super().forget()

    def on_end(self) -> None:
        self.state, self.detail = "down", "its file was closed"
