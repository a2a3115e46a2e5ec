"""DPDK's testpmd as a vhost-user front-end: its virtio-user driver, busy-polling, on ordinary pages.

    with dpdk_testpmd(folder, "net_virtio_user0,path=/tmp/a.sock,packed_vq=1", mode="icmpecho") as pmd:
        pmd.command("start")     # it answers ARP and pings for any address
        pmd.stats()[0].received  # frames, by port

Debian's package `dpdk-dev`. Modes are testpmd's: icmpecho, io, macswap, rxonly, txonly (testpmd user guide, "set fwd").
"""

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.run import wait_until
from vbackend.errors import HostError

__all__ = ["PROGRAM", "Pmd", "PortStats", "dpdk_testpmd", "parse_stats", "pmd_command"]

PROGRAM: Final = "dpdk-testpmd"
PROMPT: Final = "testpmd> "


@dataclass(frozen=True, slots=True)
class PortStats:
    """Frames of one port, as testpmd counts them."""

    received: int
    missed: int
    sent: int
    errors: int  # of transmission: the ring was full


def parse_stats(text: str) -> dict[int, PortStats]:
    """The last `show port stats all` in what testpmd printed."""
    found = {}
    for block in re.split(r"NIC statistics for port ", text)[1:]:
        port = int(block.partition(" ")[0])
        values = {key: int(value) for key, value in re.findall(r"([RT]X-[a-z]+):\s+(\d+)", block)}
        found[port] = PortStats(
            values["RX-packets"], values["RX-missed"], values["TX-packets"], values["TX-errors"]
        )
    return found


def pmd_command(devices: Sequence[str], *, prefix: str, mode: str, queues: int = 1) -> list[str]:
    """The command line. `prefix` keeps processes side by side apart; `devices` are values of --vdev."""
    eal = [
        "--no-huge",
        "--no-pci",
        "--no-telemetry",
        "-m",
        "192",
        "--lcores",
        "0@0,1@1",
        "--file-prefix",
        prefix,
    ]
    vdevs = [word for device in devices for word in ("--vdev", device)]
    pmd = ["-i", f"--forward-mode={mode}", "--total-num-mbufs=8192", "--disable-link-check"]
    pmd += [f"--rxq={queues}", f"--txq={queues}"] if queues > 1 else []
    return [PROGRAM, *eal, *vdevs, "--", *pmd]


class Pmd:
    """A running testpmd. Blocking: it is another process."""

    def __init__(self, child: subprocess.Popen[bytes], log: Path) -> None:
        self._child: Final = child
        self._log: Final = log

    @property
    def pid(self) -> int:
        return self._child.pid

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_ready(self) -> None:
        """Until it takes commands. AssertionError with its log when it ends instead."""
        wait_until(lambda: PROMPT in self.log() or self._child.poll() is not None, "testpmd's prompt")
        assert self._child.poll() is None, self.log()

    def command(self, words: str) -> str:
        """Run a command; what it printed."""
        assert self._child.stdin is not None
        before = len(self.log())
        self._child.stdin.write(f"{words}\n".encode())
        self._child.stdin.flush()

        def answered() -> bool:
            told = self.log()[before:]
            return ("\n" in told and told.endswith(PROMPT)) or self._child.poll() is not None

        wait_until(answered, f"testpmd: {words}")
        assert self._child.poll() is None, self.log()
        return self.log()[before:]

    def stats(self) -> dict[int, PortStats]:
        return parse_stats(self.command("show port stats all"))


@contextmanager
def dpdk_testpmd(folder: Path, *devices: str, mode: str, queues: int = 1, wait: bool = True) -> Iterator[Pmd]:
    """Start it, wait for its prompt, and end it in order. Its command `start` makes it forward in `mode`.

    `wait=False`: it waits itself, for a back-end that dials, so `wait_ready` comes later.

    HostError: it is not installed.
    """
    if shutil.which(PROGRAM) is None:
        raise HostError(f"there is no {PROGRAM}; on Debian it is in package dpdk-dev")
    log = folder / "testpmd.log"
    command = pmd_command(devices, prefix=f"vb-{folder.name}", mode=mode, queues=queues)
    with (
        log.open("wb") as sink,
        subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", "stdbuf", "-oL", *command],
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=sink,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR": str(folder)},
        ) as child,
    ):
        try:
            pmd = Pmd(child, log)
            if wait:
                pmd.wait_ready()
            yield pmd
            assert child.stdin is not None
            child.stdin.write(b"quit\n")
            child.stdin.close()
            assert child.wait(20) == 0, pmd.log()
        finally:
            child.kill()
