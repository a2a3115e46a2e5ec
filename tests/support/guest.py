"""A real guest: boots an image under QEMU with any network cards and runs commands in it.

Logs (console, QEMU, the command line) lie in the guest's folder. What a guest can do is in linux.py.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from tests.support.linux import BOOT_LIMIT_S, GuestError, LinuxGuest, PingResult, parse_ping
from tests.support.qemu_process import QemuProcess, QemuSpec
from vbackend.images import BuiltImage
from vbackend.qemu.accel import accelerator
from vbackend.qemu.agent import PORT_NAME, Agent
from vbackend.qemu.qmp import Qmp
from vbackend.qemu.version import QEMU

__all__ = ["Guest", "GuestError", "Guests", "PingResult", "nic", "parse_ping"]


def nic(netdev: str, mac: str, **device: object) -> list[str]:
    """A virtio card: `netdev` is the value of -netdev with its id, further device properties by name (_ for -).

    No option ROM: nobody boots from the network, and it would cost time in the BIOS.
    """
    found = re.search(r"(?:^|,)id=([^,]+)", netdev)
    if found is None:
        raise ValueError(f"-netdev {netdev} has no id")
    properties = {"netdev": found[1], "mac": mac, "id": f"nic-{found[1]}", "romfile": "", **device}
    values = ",".join(f"{name.replace('_', '-')}={value}" for name, value in properties.items())
    return ["-netdev", netdev, "-device", f"virtio-net-pci,{values}"]


class Guest(LinuxGuest):
    """A running guest under QEMU. `boot` makes one; `close` (or kill) ends it."""

    def __init__(self, name: str, qemu: QemuProcess, agent: Agent, folder: Path) -> None:
        super().__init__(name, agent, folder)
        self.qemu: Final = qemu

    @classmethod
    async def boot(
        cls,
        image: BuiltImage,
        folder: Path,
        *,
        name: str = "guest",
        network: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        machine: str = "pc",
        accel: str | None = None,
        binary: str = QEMU,
        incoming: bool = False,
        timeout: float = BOOT_LIMIT_S,
    ) -> Self:
        """Boot and wait for the agent. `network`: QEMU arguments, as from `nic`; `folder` must exist. `incoming`: it
        comes by migration, from a QEMU with the same arguments, so its agent runs already.

        The caller closes the descriptors in `pass_fds` afterwards. GuestError with the end of the console when the
        agent does not come up.
        """
        if accel is None:
            accel = await asyncio.to_thread(accelerator, binary)
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = ["-name", name, "-machine", machine, "-accel", accel, *image.boot_arguments(name)]
            arguments += ["-serial", f"file:{folder / 'console.log'}", "-device", "virtio-serial-pci"]
            arguments += ["-chardev", f"socket,id=agent,fd={theirs.fileno()}"]
            arguments += ["-device", f"virtserialport,chardev=agent,name={PORT_NAME}", *network]
            arguments += ["-incoming", "defer"] if incoming else []
            spec = QemuSpec(arguments, folder, binary=binary, pass_fds=[*pass_fds, theirs.fileno()])
            try:
                qemu = await QemuProcess.start(spec)
            except BaseException:
                ours.close()
                raise
        guest = cls(name, qemu, Agent(ours), folder)
        if incoming:
            return guest
        try:
            await guest.wait_started(1, timeout=timeout)
        except BaseException:
            await guest.kill()
            raise
        return guest

    @property
    def qmp(self) -> Qmp:
        return self.qemu.qmp

    async def reset(self) -> None:
        """Press the reset button and wait until it has booted again; its network is unconfigured then."""
        times = self.agent.starts + 1
        await self.qmp.system_reset()
        await self.wait_started(times)

    async def kill(self) -> None:
        """SIGKILL to QEMU."""
        await self.agent.close()
        await self.qemu.kill()

    async def close(self) -> None:
        """End it as a careful owner does; a second call does nothing."""
        await self.agent.close()
        await self.qemu.stop()

    def last_words(self) -> str:
        return self.qemu.last_words()


class Guests:
    """Boots guests for one test, each in a folder of its own below the test's artefacts, and closes them at the end.

    Boot several side by side with asyncio.gather.
    """

    def __init__(self, image: BuiltImage, folder: Path) -> None:
        self.image: Final = image
        self._folder: Final = folder
        self._undo: Final = contextlib.AsyncExitStack()

    async def boot(
        self, name: str, *, network: Sequence[str] = (), pass_fds: Sequence[int] = (), **options: Any
    ) -> Guest:
        """As `Guest.boot`. A name may be used again: its logs get a folder of their own."""
        number, folder = 1, self._folder / name
        while folder.exists():
            number, folder = number + 1, self._folder / f"{name}-{number + 1}"
        folder.mkdir(parents=True)
        guest = await Guest.boot(self.image, folder, name=name, network=network, pass_fds=pass_fds, **options)
        self._undo.push_async_callback(guest.close)
        return guest

    async def close(self) -> None:
        await self._undo.aclose()
