"""Giving nftables its rules, with the program `nft`. Works in the namespace of the calling thread, and blocks."""

import shutil
import subprocess
from typing import Final

from vbackend.errors import HostError
from vbackend.host.capability import run_privileged

__all__ = ["ROOT_PATHS", "apply", "tables"]

ROOT_PATHS: Final = "/usr/sbin:/sbin"  # which users often lack in PATH
_PATIENCE_S: Final = 20.0


def apply(what: str, rules: str) -> None:
    """Carry out all of `rules`, or nothing. HostError with nft's words: `what` could not be done."""
    _nft(what, "-f", "-", text=rules)


def tables() -> list[str]:
    """The names of the tables of the family inet."""
    listed = _nft("list the tables of nftables", "list", "tables", "inet")
    return [line.split()[2] for line in listed.splitlines() if line.startswith("table inet ")]


def _nft(what: str, *arguments: str, text: str = "") -> str:
    program = shutil.which("nft") or shutil.which("nft", path=ROOT_PATHS)
    if program is None:
        raise HostError(f"cannot {what}: there is no nft; apt install nftables (Debian)")
    try:
        done = run_privileged([program, *arguments], text, _PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"cannot {what}: {program}: {error}") from error
    if done.returncode != 0:
        said = next(iter(done.stderr.strip().splitlines()), f"it ended with status {done.returncode}")
        remedy = (
            "it needs CAP_NET_ADMIN: run as root"
            if "ermitted" in said
            else "see whether the kernel has nf_tables with nft_masq, nft_nat, nft_ct and nft_fib"
        )
        raise HostError(f"cannot {what}: nft: {said}; {remedy}")
    return done.stdout
