"""What is kept of a lab on disk, in `<runtime>/labs/NAME/`, so that a killed daemon's successor goes on where it was.

    lock             held by the daemon, whose process number is in it; whoever wants to touch the rest takes it first
    state.json       `LabRecord`: the lab that runs, and the one that is being applied
    vm/VM/vm.json    `VmRecord`: what a guest was started with, written before its QEMU exists
    control.sock daemon.log vm/VM/... port/...

Rule: files appear whole or not at all. What is written may be ahead of what is done, never behind: QEMUs are found
among the processes, cards are asked for by QMP, ports die with the daemon.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from vbackend.control.place import lab_control_path, lab_folder, make_private_dir
from vbackend.errors import HostError
from vbackend.lab.model import Lab
from vbackend.lab.names import VmPlace
from vbackend.lab.picture import Machine

__all__ = ["LabFolder", "LabLock", "LabRecord", "VmRecord", "replace_file"]

M = TypeVar("M", bound=BaseModel)

_TRIES: Final = 100


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LabRecord(_Record):
    """`wanted` is set while it is being applied; then `running` is what ran before."""

    file: str | None = None  # where the lab was read
    running: Lab | None = None
    wanted: Lab | None = None


class VmRecord(_Record):
    """A guest. Until `ready` it has not been set up to the end, and is better started again than taken over."""

    machine: Machine
    ready: bool = False
    since: float  # seconds since the epoch, of QEMU's start


class LabFolder:
    """A lab's folder and what lies in it."""

    def __init__(self, name: str, environ: Mapping[str, str]) -> None:
        self.name: Final = name
        self.root: Final = lab_folder(name, environ)
        self.control: Final = Path(lab_control_path(name, environ))
        self.log: Final = self.root / "daemon.log"
        self.vms: Final = self.root / "vm"
        self.ports: Final = self.root / "port"
        self._state: Final = self.root / "state.json"

    def make(self) -> None:
        """Make it, for its owner only. HostError: impossible."""
        for _ in range(_TRIES):  # an ending daemon may take the folders away between one and the next
            with contextlib.suppress(FileNotFoundError):
                for folder in (self.root.parent.parent, self.root.parent, self.root):
                    make_private_dir(folder)
                return
        raise HostError(f"cannot make {self.root}; set XDG_RUNTIME_DIR to a directory of yours")

    def fill(self) -> None:
        """Make what lies in it. Under the lock."""
        for folder in (self.vms, self.ports):
            make_private_dir(folder)

    def remove(self) -> None:
        """Take everything away, the lock last."""
        for entry in self.root.iterdir() if self.root.is_dir() else ():
            if entry.name != "lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a successor may be in it already, or other labs
            (self.root / "lock").unlink()
            self.root.rmdir()
            self.root.parent.rmdir()

    def vm(self, name: str) -> VmPlace:
        return VmPlace.of(self.root, name)

    def vm_names(self) -> list[str]:
        """Those with a folder, sorted."""
        return sorted(path.name for path in self.vms.iterdir()) if self.vms.is_dir() else []

    def read(self) -> LabRecord:
        """An empty record when there is none that makes sense."""
        return _read(self._state, LabRecord) or LabRecord()

    def write(self, record: LabRecord) -> None:
        replace_file(self._state, record.model_dump_json())

    def read_vm(self, name: str) -> VmRecord | None:
        return _read(self.vm(name).folder / "vm.json", VmRecord)

    def write_vm(self, name: str, record: VmRecord) -> None:
        """Makes the VM's folder, too."""
        folder = self.vm(name).folder
        folder.mkdir(mode=0o700, exist_ok=True)
        replace_file(folder / "vm.json", record.model_dump_json())

    def remove_vm(self, name: str) -> None:
        shutil.rmtree(self.vm(name).folder, ignore_errors=True)


class LabLock:
    """The right to run a lab, for as long as this process lives or `release` is not called."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, folder: LabFolder) -> Self | None:
        """None: another process has it, or the folder is not there."""
        while folder.root.is_dir():
            path = folder.root / "lock"
            with contextlib.suppress(FileNotFoundError):  # removed with the folder, just now
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.fstat(fd).st_ino == path.stat().st_ino:
                        os.truncate(fd, 0)
                        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
                        folder.fill()
                        return cls(fd)
                except BlockingIOError:
                    os.close(fd)
                    return None
                except BaseException:
                    os.close(fd)
                    raise
                os.close(fd)
        return None

    @staticmethod
    def holder(folder: LabFolder) -> int | None:
        """The process that has it; None: nobody."""
        try:
            fd = os.open(folder.root / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(fd, 20, 0).decode(errors="replace").strip()
            return int(text) if text.isdigit() else None
        finally:
            os.close(fd)
        return None

    def release(self) -> None:
        """A second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _read(path: Path, model: type[M]) -> M | None:
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        return None  # of another version; its QEMU is found and ended


def replace_file(path: Path, text: str) -> None:
    """Write a file, in UTF-8 whatever the locale is, so that it appears whole. HostError: impossible."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
            try:
                file.write(text.encode())
                file.flush()
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise HostError(f"cannot keep the lab's state in {path}: {error.strerror}") from None
