"""vbackend: a user-space network backend for QEMU.

Python decides, Rust moves packets, and Rust never calls Python. See ARCHITECTURE.md beside this file.
"""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("vbackend")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"
