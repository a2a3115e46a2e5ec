"""A Linux guest that runs commands for its host, whatever machine it lives in: QEMU (guest.py), user-mode (uml.py).

Commands go through the guest's agent, so a test may break the network as it likes. Waiting has a deadline everywhere.
"""

import asyncio
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Any, Final, Self

from vbackend.qemu.agent import Agent, AgentError, Result

__all__ = ["BOOT_LIMIT_S", "GuestError", "LinuxGuest", "PingResult", "parse_ping"]

BOOT_LIMIT_S: Final = 90.0  # under emulation, on a machine with other things to do
IPERF_PORT: Final = 5201


class GuestError(AssertionError):
    """The guest did not boot, or a command in it did not do what it had to; the text shows what it wrote."""


@dataclass(frozen=True, slots=True)
class PingResult:
    sent: int
    received: int
    duplicates: int
    average_ms: float | None  # None: nothing came back

    @property
    def lost(self) -> int:
        return self.sent - self.received


def parse_ping(text: str) -> PingResult:
    """Read the statistics of iputils' ping. GuestError when there are none."""
    counts = re.search(r"(\d+) packets transmitted, (\d+) received(?:, \+(\d+) duplicates)?", text)
    if counts is None:
        raise GuestError(f"ping printed no statistics: {text.strip() or 'nothing'}")
    times = re.search(r"= [\d.]+/([\d.]+)/", text)
    return PingResult(int(counts[1]), int(counts[2]), int(counts[3] or 0), float(times[1]) if times else None)


class LinuxGuest(ABC):
    """A running guest; the sub-classes boot it and end it."""

    def __init__(self, name: str, agent: Agent, folder: Path) -> None:
        self.name: Final = name
        self.agent: Final = agent
        self.folder: Final = folder

    @abstractmethod
    async def kill(self) -> None:
        """End its machine as SIGKILL does."""

    @abstractmethod
    async def close(self) -> None:
        """End it as a careful owner does; a second call does nothing."""

    @abstractmethod
    def last_words(self) -> str:
        """What the machine wrote about itself."""

    async def wait_started(self, times: int, *, timeout: float = BOOT_LIMIT_S) -> None:
        """Wait until the guest has booted that often."""
        try:
            await asyncio.wait_for(self.agent.wait_started(times), timeout)
        except (TimeoutError, AgentError) as error:
            why = str(error) or f"its agent did not start within {timeout:g} s"
            raise GuestError(f"guest {self.name}: {why}\n{self._evidence()}") from error

    async def run(self, command: str, *, timeout: float = 30.0) -> Result:
        """Run a shell command; any status will do."""
        return await self.agent.run(command, timeout=timeout)

    async def check(self, command: str, *, timeout: float = 30.0) -> str:
        """Run a shell command that must succeed; its stdout. GuestError with its output otherwise."""
        result = await self.run(command, timeout=timeout)
        if result.status != 0:
            raise GuestError(
                f"guest {self.name}: {command!r} ended with {result.status}\n{result.text}{result.errors}"
            )
        return result.text

    async def wait_until(self, command: str, *, timeout: float = 15.0) -> str:
        """Repeat a command until it succeeds; its stdout. GuestError with the last try's output."""
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            result = await self.run(command, timeout=max(timeout, 10.0))
            if result.status == 0:
                return result.text
            if asyncio.get_running_loop().time() > deadline:
                raise GuestError(
                    f"guest {self.name}: {command!r} did not succeed within {timeout:g} s, last with "
                    f"{result.status}\n{result.text}{result.errors}"
                )
            await asyncio.sleep(0.05)

    async def interface(self, mac: str) -> str:
        """The name of the card with this address; names depend on the order of slots."""
        return (
            await self.check(f"basename $(dirname $(grep -lix {quote(mac)} /sys/class/net/*/address))")
        ).strip()

    async def configure(self, mac: str, addresses: Sequence[str] = (), *, mtu: int | None = None) -> str:
        """Bring the card with this MAC address up, with CIDR addresses; returns its name."""
        name = await self.interface(mac)
        steps = [f"ip link set {name} mtu {mtu}"] if mtu is not None else []
        steps += [f"ip link set {name} up", *(f"ip addr add {address} dev {name}" for address in addresses)]
        await self.check(" && ".join(steps))
        return name

    async def ping(
        self,
        address: str,
        *,
        count: int = 3,
        size: int | None = None,
        df: bool = False,
        interface: str | None = None,
        wait_s: int = 3,
    ) -> PingResult:
        """Send `count` echo requests, ten a second, of `size` bytes of payload. Losses are the caller's to judge."""
        words = ["/bin/ping", "-n", "-q", "-i", "0.1", "-W", str(wait_s), "-c", str(count)]
        words += ["-s", str(size)] if size is not None else []
        words += ["-M", "do"] if df else []
        words += ["-I", interface] if interface is not None else []
        result = await self.run(" ".join([*words, quote(address)]), timeout=count * 0.1 + wait_s + 30)
        if result.status > 1:  # 1: no answer; 2: it did not even try
            raise GuestError(f"guest {self.name} cannot ping {address}: {result.text}{result.errors}")
        return parse_ping(result.text)

    async def wait_ping(self, address: str, *, timeout: float = 15.0) -> None:
        """Ping until the first answer: after a boot, a reconnection or a change of the network."""
        await self.wait_until(f"/bin/ping -n -q -c 1 -W 1 {quote(address)}", timeout=timeout)

    async def iperf_server(self) -> None:
        """Start an iperf3 server that serves one client and ends."""
        await self.agent.start(f"iperf3 --server --one-off --port {IPERF_PORT}")
        await self.wait_until(f"netstat -ltn | grep -q ':{IPERF_PORT} '")

    async def iperf(self, address: str, *, seconds: int = 2, arguments: str = "") -> dict[str, Any]:
        """Run an iperf3 client; its JSON report. GuestError when it complains."""
        command = f"iperf3 --client {quote(address)} --port {IPERF_PORT} --time {seconds} --json {arguments}"
        result = await self.run(command, timeout=seconds + 60)
        try:
            report: dict[str, Any] = json.loads(result.stdout)
        except json.JSONDecodeError as error:
            raise GuestError(f"guest {self.name}: iperf3: {result.text}{result.errors}") from error
        if "error" in report:
            raise GuestError(f"guest {self.name}: iperf3: {report['error']}")
        return report

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _evidence(self) -> str:
        console = self.folder / "console.log"
        last = console.read_text(errors="replace")[-2000:] if console.exists() else ""
        return f"--- console\n{last.strip() or '(empty)'}\n--- machine\n{self.last_words()}"
