"""The bench's C programs, compiled once per version of their sources and compiler into the user's cache."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

__all__ = ["CompileError", "cache_folder", "compiled"]

SOURCES = Path(__file__).resolve().parent / "native"
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")


class CompileError(Exception):
    """No compiler, or it refused; the text says what to do."""


def cache_folder() -> Path:
    """Where compiled programs stay: $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vbackend" / "bench"


def compiled(name: str, folder: Path | None = None) -> Path:
    """The program made of `native/NAME.c`. CompileError when it cannot be made."""
    source = SOURCES / f"{name}.c"
    compiler = shutil.which("cc")
    if compiler is None:
        raise CompileError("no C compiler: `apt-get install gcc`, or put `cc` on the PATH")
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    sources = [path.read_bytes() for path in (source, *sorted(SOURCES.glob("*.h")))]
    key = hashlib.sha256(b"\0".join((*sources, version, " ".join(FLAGS).encode()))).hexdigest()
    folder = folder or cache_folder()
    program = folder / f"{name}-{key[:16]}"
    if program.exists():
        return program
    folder.mkdir(parents=True, exist_ok=True)
    # Compiled under another name: a second bench may look for the program meanwhile.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / name
        done = subprocess.run(
            [compiler, *FLAGS, "-o", str(made), str(source)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CompileError(f"{compiler} refused {source.name}:\n{done.stderr}")
        made.replace(program)
    return program
