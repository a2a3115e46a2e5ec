"""KVM or not: decided by booting, because /dev/kvm may open and yet run nothing (KVM inside some virtual machines).

The probe boots a sector of 16-bit code that waits for one tick of the timer and then ends QEMU through its debug-exit
device: BIOS, interrupts and the disk have worked by then. That has to be quick, too: where KVM itself is emulated the
sector may boot in seconds, and Linux never. The answer holds for a binary until the host is booted again.
"""

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from vbackend.qemu.version import QEMU

__all__ = ["PROBE_SECTOR", "KvmProbe", "accelerator", "probe_kvm", "probe_machine", "runtime_folder"]

DEVICE: Final = Path("/dev/kvm")
PROBE_LIMIT_S: Final = 1.5  # a KVM that works needs 0.3 s; one that hangs in Linux needed 3.4 s
EXIT_PORT: Final = 0xF4
EXIT_STATUS: Final = 0x10 << 1 | 1  # QEMU's isa-debug-exit: the byte written, shifted, plus one

PROBE_SECTOR: Final = (
    bytes.fromhex(
        "fb"  # sti
        "31c0 cd1a"  # xor ax,ax; int 0x1a: ticks since boot in cx:dx
        "89d3"  # mov bx,dx
        "f4"  # wait: hlt
        "31c0 cd1a"  # xor ax,ax; int 0x1a
        "39da"  # cmp dx,bx
        "74f7"  # je wait
        "baf400 b010 ee"  # mov dx,0xf4; mov al,0x10; out dx,al
        "f4 ebfd"  # hlt; jmp to hlt
    ).ljust(510, b"\0")
    + b"\x55\xaa"
)


class KvmProbe(BaseModel):
    """Whether guests can run on KVM, and if not, why not and what could help."""

    model_config = ConfigDict(frozen=True)
    works: bool
    detail: str


class _Noted(BaseModel):
    boot: str
    binary: str
    probe: KvmProbe


def accelerator(binary: str = QEMU) -> str:
    """QEMU's `-accel` argument for guests here: kvm when it really boots, tcg otherwise."""
    return "kvm" if probe_kvm(binary).works else "tcg"


@cache
def probe_kvm(binary: str = QEMU, limit_s: float = PROBE_LIMIT_S) -> KvmProbe:
    """Boot on KVM unless that was tried since the host's last boot. Takes at most `limit_s` seconds."""
    if not DEVICE.exists():
        return KvmProbe(
            works=False, detail="there is no /dev/kvm: load kvm_intel or kvm_amd, or allow nested KVM"
        )
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return KvmProbe(works=False, detail="no permission for /dev/kvm: join its group (kvm)")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    digest = hashlib.sha256(binary.encode(errors="surrogateescape")).hexdigest()[:16]
    note = runtime_folder(os.environ, os.geteuid()) / f"kvm-probe-{digest}.json"
    noted = _recall(note)
    if noted is not None and (noted.boot, noted.binary) == (boot, binary):
        return noted.probe
    probe = probe_machine("kvm", binary, limit_s)
    _remember(note, _Noted(boot=boot, binary=binary, probe=probe))
    return probe


def probe_machine(accel: str, binary: str, limit_s: float) -> KvmProbe:
    """Boot the probe sector on an accelerator, now."""
    with tempfile.NamedTemporaryFile(prefix="vbackend-probe-") as disk:
        disk.write(PROBE_SECTOR)
        disk.flush()
        command = ["setpriv", "--pdeathsig", "KILL", "--", binary, "-nodefaults", "-no-user-config"]
        command += ["-display", "none", "-machine", "pc", "-accel", accel, "-m", "16"]
        command += ["-drive", f"if=floppy,format=raw,readonly=on,file={disk.name}"]
        command += ["-device", f"isa-debug-exit,iobase={EXIT_PORT:#x},iosize=4"]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return KvmProbe(
                works=False, detail=f"{accel} starts, but a guest hangs in boot for {limit_s:g} s"
            )
        except OSError as error:
            return KvmProbe(works=False, detail=f"cannot start {binary}: {error.strerror}")
    if done.returncode == EXIT_STATUS:
        return KvmProbe(works=True, detail=f"a guest boots on {accel}")
    words = done.stderr.strip().splitlines()
    return KvmProbe(
        works=False, detail=f"QEMU with {accel}: {words[-1] if words else f'status {done.returncode}'}"
    )


def runtime_folder(environ: Mapping[str, str], uid: int) -> Path:
    """Where notes live until the next boot: $XDG_RUNTIME_DIR/vbackend, else /run/vbackend or the user's own in /tmp."""
    told = environ.get("XDG_RUNTIME_DIR", "")
    if Path(told).is_absolute():
        return Path(told) / "vbackend"
    return Path("/run/vbackend") if uid == 0 else Path(tempfile.gettempdir()) / f"vbackend-{uid}"


def _recall(note: Path) -> _Noted | None:
    try:
        if note.stat().st_uid != os.geteuid():
            return None  # somebody else's word, in a folder anybody may write to
        return _Noted.model_validate_json(note.read_text())
    except (OSError, ValidationError):
        return None


def _remember(note: Path, noted: _Noted) -> None:
    try:
        note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=note.parent, prefix=".kvm-", delete=False) as file:
            file.write(noted.model_dump_json())
        Path(file.name).replace(note)
    except OSError:
        return  # it is probed again next time
