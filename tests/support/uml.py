"""User-mode Linux as a guest: a kernel that is a process. Its virtio cards are vhost-user only; it has older ones, too.

Debian's package `user-mode-linux`, with the initramfs of our guest image in front of this kernel's own modules; the
agent talks over a serial line. It runs at native speed without KVM: the fast real front-end. What it sends is in
the kernel's arch/um/drivers/virtio_uml.c.

    guest = await UmlGuest.boot(initrd, folder, name="u", cards=[Path("/tmp/a.sock")])
"""

import asyncio
import contextlib
import shlex
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from tests.support.linux import BOOT_LIMIT_S, LinuxGuest
from vbackend.errors import HostError
from vbackend.images import BuiltImage, cpio
from vbackend.images.recipe import Modules
from vbackend.images.root import module_tree
from vbackend.qemu.agent import Agent

__all__ = ["UmlGuest", "uml_command", "uml_initrd"]

PROGRAM: Final = "linux.uml"
MODULES: Final = Path("/usr/lib/uml/modules")
WANTED: Final = Modules(load=("ipv6", "virtio_net"), available=("8021q", "dummy", "tun"))
GRACE_S: Final = 5.0

# It is many processes, and some outlive it; those of a PID namespace do not, and it dies with us, however we end.
_CONTAINED: Final = ("setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child")


def uml_initrd(image: BuiltImage, target: Path, modules: Path = MODULES) -> Path:
    """Write the initramfs of `image` with the modules of the installed user-mode Linux behind it; returns `target`.

    An initramfs may be several archives, later files replace earlier ones. HostError: it is not installed.
    """
    releases = sorted(modules.iterdir()) if modules.is_dir() else []
    if shutil.which(PROGRAM) is None or not releases:
        raise HostError(f"there is no {PROGRAM} with modules; on Debian it is in package user-mode-linux")
    release = releases[-1]
    target.write_bytes(image.initrd.read_bytes() + cpio.newc(module_tree(release, release.name, WANTED)))
    return target


def uml_command(
    name: str,
    folder: Path,
    initrd: Path,
    agent: int,
    cards: Sequence[Path],
    more: Sequence[str] = (),
    memory_mib: int = 192,
) -> list[str]:
    """The command line: `agent` is the descriptor of the agent's line, `cards` the sockets its virtio cards are behind.

    `more`: other devices, such as eth0=daemon,….
    """
    lines = {"con0": "null,fd:1", "con": "null", "ssl0": "null", "ssl1": f"fd:{agent}", "ssl": "null"}
    words = {"mem": f"{memory_mib}M", "initrd": initrd, "root": "/dev/ram0", "umid": name, "uml_dir": folder}
    words |= lines | {"agent": "/dev/ttyS1", "hostname": name, "panic": -1}
    devices = [f"virtio_uml.device={card}:1" for card in cards]  # 1: a network device (VIRTIO 1.2, 5)
    return [PROGRAM, *(f"{key}={value}" for key, value in words.items()), "quiet", *devices, *more]


class UmlGuest(LinuxGuest):
    """A running user-mode Linux. `boot` makes one; `close` (or kill) ends it."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, agent: Agent, folder: Path) -> None:
        super().__init__(name, agent, folder)
        self._process: Final = process

    @classmethod
    async def boot(
        cls,
        initrd: Path,
        folder: Path,
        *,
        name: str,
        cards: Sequence[Path] = (),
        more: Sequence[str] = (),
        timeout: float = BOOT_LIMIT_S,
    ) -> Self:
        """Boot and wait for the agent; `folder` must exist. Addresses of virtio cards are the kernel's choice: `mac`.

        GuestError with the end of the console when the agent does not come up.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            command = uml_command(name, folder, initrd, theirs.fileno(), cards, more)
            (folder / "command").write_text(shlex.join(command) + "\n")
            with (folder / "console.log").open("wb") as sink:
                process = await asyncio.create_subprocess_exec(
                    *_CONTAINED,
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=sink,
                    stderr=sink,
                    pass_fds=(theirs.fileno(),),
                    process_group=0,
                )
        guest = cls(name, process, Agent(ours), folder)
        try:
            await guest.wait_started(1, timeout=timeout)
        except BaseException:
            await guest.kill()
            raise
        return guest

    @property
    def pid(self) -> int:
        return self._process.pid

    async def mac(self, index: int = 0) -> str:
        """The address of card `index`: a back-end has no say in it, so the kernel takes a random one."""
        cards = await self.check("cat $(ls -d /sys/bus/virtio/devices/*/net/*/address | sort -V)")
        return cards.split()[index]

    async def kill(self) -> None:
        """SIGKILL to it and to the processes that are its guest's."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self.agent.close()

    async def close(self) -> None:
        """Halt it, as a careful owner does, or kill it when that takes too long."""
        if self._process.returncode is None:
            with contextlib.suppress(Exception):
                await self.agent.start("poweroff -f")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), GRACE_S)
        await self.kill()

    def last_words(self) -> str:
        return f"exit status {self._process.returncode}"
