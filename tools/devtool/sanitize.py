"""The tier under AddressSanitizer: what a hostile guest makes the engine do, with every memory access checked.

The engine is built a second time, instrumented, into a folder of its own. The tests stay as they are; the processes
that they attack (`tests/support/run.py`) load that engine, and gcc's runtime of the sanitizer, which has the same
interface as LLVM's and can be loaded into Python.
"""

from collections.abc import Sequence
from pathlib import Path

from tools.devtool.run import ROOT, DevError, host_triple, output, run, venv_bin

__all__ = ["build_command", "sanitize"]

TESTS = ("tests/conformance/vhost_user", "tests/conformance/qemu_stream")
BUILD = Path("target/asan")
RUNTIME = "libasan.so"

# Stable rustc has the instrumentation, but hides the flag. The runtime comes with the process, not from Rust.
FLAGS = {"RUSTC_BOOTSTRAP": "1", "RUSTFLAGS": "-Zsanitizer=address -Zexternal-clangrt"}


def build_command(triple: str) -> list[str]:
    """Build the extension module. Naming the triple keeps the instrumentation out of build scripts."""
    return [
        *("cargo", "build", "--profile", "asan", "--locked", "--package", "vbackend-python"),
        *("--manifest-path", "vbackend/native/Cargo.toml"),
        *("--target", triple, "--target-dir", str(BUILD)),
    ]


def sanitize(args: Sequence[str] = ()) -> None:
    """Build, and run the tests; `args` go to pytest, instead of all of them."""
    found = (output(["cc", f"-print-file-name={RUNTIME}"]) or "").strip()
    if not Path(found).is_absolute():
        raise DevError(f"there is no {RUNTIME}: install gcc (on Debian: apt install gcc)")
    triple = host_triple(output(["rustc", "-vV"]))
    run(build_command(triple), env={**FLAGS, "PYO3_BUILD_EXTENSION_MODULE": "1"})
    engine = ROOT / BUILD / triple / "asan" / "lib_native.so"
    names = {"VBACKEND_ASAN_ENGINE": str(engine), "VBACKEND_ASAN_RUNTIME": str(Path(found).resolve())}
    run([venv_bin("python"), "-m", "pytest", *(args or TESTS)], env=names)
