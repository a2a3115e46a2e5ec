"""A real guest: boots an image under QEMU with any network cards and runs commands in it.

Commands go through the guest's agent, so a test may break the network as it likes. Logs (console, QEMU, the command
line) lie in the guest's folder. Waiting has a deadline everywhere.
"""

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Any, Final, Self

from vbackend.images import BuiltImage
from vbackend.qemu.accel import accelerator
from vbackend.qemu.agent import PORT_NAME, Agent, AgentError, Result
from vbackend.qemu.process import QemuProcess, QemuSpec
from vbackend.qemu.qmp import Qmp

__all__ = ["Guest", "GuestError", "Guests", "PingResult", "nic", "parse_ping"]

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


def parse_ping(text: str) -> PingResult:
    """Read the statistics of iputils' ping. GuestError when there are none."""
    counts = re.search(r"(\d+) packets transmitted, (\d+) received(?:, \+(\d+) duplicates)?", text)
    if counts is None:
        raise GuestError(f"ping printed no statistics: {text.strip() or 'nothing'}")
    times = re.search(r"= [\d.]+/([\d.]+)/", text)
    return PingResult(int(counts[1]), int(counts[2]), int(counts[3] or 0), float(times[1]) if times else None)


class Guest:
    """A running guest. `boot` makes one; `close` (or kill) ends it."""

    def __init__(self, name: str, qemu: QemuProcess, agent: Agent, folder: Path) -> None:
        self.name: Final = name
        self.qemu: Final = qemu
        self.agent: Final = agent
        self.folder: Final = folder

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
        timeout: float = BOOT_LIMIT_S,
    ) -> Self:
        """Boot and wait for the agent. `network`: QEMU arguments, as from `nic`; `folder` must exist.

        The caller closes the descriptors in `pass_fds` afterwards. GuestError with the end of the console when the
        agent does not come up.
        """
        if accel is None:
            accel = await asyncio.to_thread(accelerator)
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = ["-name", name, "-machine", machine, "-accel", accel, *image.boot_arguments(name)]
            arguments += ["-serial", f"file:{folder / 'console.log'}", "-device", "virtio-serial-pci"]
            arguments += ["-chardev", f"socket,id=agent,fd={theirs.fileno()}"]
            arguments += ["-device", f"virtserialport,chardev=agent,name={PORT_NAME}", *network]
            spec = QemuSpec(arguments, folder, pass_fds=[*pass_fds, theirs.fileno()])
            try:
                qemu = await QemuProcess.start(spec)
            except BaseException:
                ours.close()
                raise
        guest = cls(name, qemu, Agent(ours), folder)
        try:
            await guest.wait_started(1, timeout=timeout)
        except BaseException:
            await guest.kill()
            raise
        return guest

    @property
    def qmp(self) -> Qmp:
        return self.qemu.qmp

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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _evidence(self) -> str:
        console = self.folder / "console.log"
        last = console.read_text(errors="replace")[-2000:] if console.exists() else ""
        return f"--- console\n{last.strip() or '(empty)'}\n--- QEMU\n{self.qemu.last_words()}"


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
