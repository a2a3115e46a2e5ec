"""A VM of a running lab, for tests."""

import time
from dataclasses import dataclass
from typing import Final

from vbackend.errors import ConfigError, ControlError
from vbackend.lab.state import LabFolder
from vbackend.lab.status import VmStatus
from vbackend.testing.control import LabControl

__all__ = ["CommandError", "Result", "Vm"]

_RUN_S: Final = 30.0
_PAUSE_S: Final = 0.1  # between attempts of `wait_until`
_BOOT_S: Final = 300.0
_SHOWN: Final = 4000  # characters of output in a message


@dataclass(frozen=True, slots=True)
class Result:
    """What a command wrote and how it ended."""

    stdout: str
    stderr: str
    status: int

    def __str__(self) -> str:
        parts = [f"status {self.status}"]
        parts += [text.rstrip()[-_SHOWN:] for text in (self.stdout, self.stderr) if text.strip()]
        return "\n".join(parts)


class CommandError(AssertionError):
    """A command in a guest ended with a status other than 0."""

    def __init__(self, vm: str, command: str, result: Result) -> None:
        super().__init__(f"{vm}: {command!r}: {result}")
        self.result: Final = result


class Vm:
    """One VM. Commands need an image of ours, which has the agent that runs them."""

    def __init__(self, name: str, control: LabControl) -> None:
        self.name: Final = name
        self._control: Final = control

    def run(
        self, command: str, *, input: str | bytes = b"", timeout: float = _RUN_S, check: bool = True
    ) -> Result:
        """Run a shell command as root and wait for its end. `input`: its stdin.

        CommandError: status other than 0, unless `check` is False. ControlError: not over within `timeout`
        seconds, or there is no guest. ConfigError: there is nobody in the guest to run it, or it writes more than
        64 MiB.
        """
        given = input.encode() if isinstance(input, str) else input
        ended = self._control.run(self.name, command, input=given, timeout=timeout)
        result = Result(ended.text, ended.errors, ended.status)
        if check and result.status != 0:
            raise CommandError(self.name, command, result)
        return result

    def wait_until(self, command: str, *, timeout: float = _RUN_S) -> Result:
        """Run a shell command again and again until its status is 0. AssertionError with its last output."""
        deadline, last = time.monotonic() + timeout, "it never ended"
        while (left := deadline - time.monotonic()) > 0:
            try:
                result = self.run(command, timeout=left, check=False)
            except ConfigError:
                raise
            except ControlError as error:
                last = f"{last}; then {error}"
                break
            if result.status == 0:
                return result
            last = str(result)
            time.sleep(_PAUSE_S)
        raise AssertionError(f"{self.name}: not within {timeout:g} s: {command!r}: {last}")

    @property
    def status(self) -> VmStatus:
        """Its state, QEMU's process, its cards with their addresses."""
        return next(vm for vm in self._control.status().vms if vm.name == self.name)

    def mac(self, nic: str = "eth0") -> str:
        """The address of a card. KeyError: there is no such card."""
        return {each.name: each.mac for each in self.status.nics}[nic]

    @property
    def console(self) -> str:
        """All that came from its serial console since QEMU started."""
        place = LabFolder(self._control.name, self._control.environ).vm(self.name)
        return place.console_log.read_text(errors="replace")

    def reset(self) -> None:
        """Cut the power, boot again and wait until it is set up as the lab file says."""
        self._control.execute("vm-restart", {"vm": self.name}, timeout=_BOOT_S)

    def stop(self) -> None:
        """Cut the power."""
        self._control.execute("vm-stop", {"vm": self.name})

    def start(self) -> None:
        """Boot what was stopped, or has failed, and wait until it is set up."""
        self._control.execute("vm-start", {"vm": self.name}, timeout=_BOOT_S)

    def __repr__(self) -> str:
        return f"<Vm {self.name} of lab {self._control.name}>"
