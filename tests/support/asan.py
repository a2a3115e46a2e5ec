"""`vbackend run` with an engine that AddressSanitizer watches, where `tools/dev sanitize` asks for it.

It sets two variables: VBACKEND_ASAN_ENGINE, the instrumented extension module, and VBACKEND_ASAN_RUNTIME, the library
that has to be loaded before everything else. Without them there is nothing to do.
"""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Final

__all__ = ["assert_watched", "environment", "load_engine"]

_ENGINE: Final = "VBACKEND_ASAN_ENGINE"
_RUNTIME: Final = "VBACKEND_ASAN_RUNTIME"
_MODULE: Final = "vbackend._native"

# Python never frees all it has. SIGBUS is the engine's: memory that a front-end truncated.
_OPTIONS: Final = "detect_leaks=0:handle_sigbus=0:allow_user_segv_handler=1"


def environment() -> dict[str, str]:
    """What a process to be watched needs in its environment; empty when none is."""
    if _ENGINE not in os.environ:
        return {}
    return {"LD_PRELOAD": os.environ[_RUNTIME], "ASAN_OPTIONS": _OPTIONS}


def load_engine() -> None:
    """In the process to be watched, before anything of `vbackend` is imported."""
    if _ENGINE not in os.environ:
        return
    spec = importlib.util.spec_from_file_location(_MODULE, os.environ[_ENGINE])
    assert spec is not None and spec.loader is not None, os.environ[_ENGINE]  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)


def assert_watched(pid: int) -> None:
    """AssertionError when the process should be watched, but has not loaded what that takes."""
    if _ENGINE not in os.environ:
        return
    maps = Path(f"/proc/{pid}/maps").read_text()
    for name in (_ENGINE, _RUNTIME):
        assert os.environ[name] in maps, f"process {pid} has not loaded {os.environ[name]}"
