"""Debian packages as an ordinary user: looked up, downloaded and unpacked, never installed.

The system's package lists are used when they have what is wanted; when they are missing or out of date, lists of our
own are fetched into a private folder. apt checks signatures and hashes either way.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vbackend.errors import HostError

__all__ = ["Apt", "AptError", "Package", "follow", "parse_packages", "unpack"]

UPDATE_LIMIT_S: Final = 300
DOWNLOAD_LIMIT_S: Final = 900


class AptError(HostError):
    """apt does not know a package, or could not fetch it."""


@dataclass(frozen=True, slots=True)
class Package:
    name: str
    version: str
    depends: tuple[str, ...]  # of each alternative the first, names only
    filename: str  # in the archive; empty when no list says where it is

    def __str__(self) -> str:
        return f"{self.name}={self.version}"


def parse_packages(text: str) -> list[Package]:
    """Read what `apt-cache show` prints: deb822 stanzas (deb822(5), Debian policy 7.1)."""
    found = []
    for stanza in re.split(r"\n\s*\n", text.strip()):
        fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE))
        if "Package" not in fields:
            continue
        relations = ",".join(fields[key] for key in ("Pre-Depends", "Depends") if fields.get(key))
        names = [re.match(r"\s*([a-z0-9][a-z0-9.+-]*)", relation) for relation in relations.split(",")]
        depends = tuple(dict.fromkeys(match[1] for match in names if match))
        found.append(
            Package(fields["Package"], fields.get("Version", ""), depends, fields.get("Filename", ""))
        )
    return found


def follow(
    roots: Sequence[str], wanted: Callable[[str], bool], show: Callable[[Sequence[str]], Iterable[Package]]
) -> list[Package]:
    """The roots and, from dependency to dependency, every package whose name is `wanted`; sorted by name.

    AptError when a root is unknown or cannot be downloaded. Dependencies that are unknown (virtual packages) are
    left out: who needs a file of theirs will miss it by name.
    """
    known: dict[str, Package] = {}
    asked: set[str] = set()
    ask = list(dict.fromkeys(roots))
    while ask:
        asked.update(ask)
        new = {package.name: package for package in show(ask) if package.filename}
        known |= new
        ask = sorted({name for package in new.values() for name in package.depends if wanted(name)} - asked)
    missing = [name for name in roots if name not in known]
    if missing:
        raise AptError(
            f"apt knows no package to download named {', '.join(missing)}: run `apt-get update` as root"
        )
    return [known[name] for name in sorted(known)]


class Apt:
    """apt with the system's package lists, or with lists of our own in `private`."""

    def __init__(self, private: Path | None = None, *, settings: Sequence[str] = ()) -> None:
        """`settings`: more of apt.conf(5), as apt's option -o has it: other sources, another release."""
        for program in ("apt-cache", "apt-config", "apt-get", "dpkg-deb", "tar"):
            if shutil.which(program) is None:
                raise HostError(
                    f"building a guest image needs {program}: it is made of Debian packages, build it on Debian"
                )
        self.private: Final = private
        self._settings: Final = tuple(settings)

    def show(self, names: Sequence[str]) -> list[Package]:
        """The versions apt would install of those names it knows."""
        done = self._run(["apt-cache", *self._options(), "show", "--no-all-versions", *names], 60)
        return parse_packages(done.stdout)

    def has_lists(self) -> bool:
        """Whether private lists were ever fetched; of the system's only a lookup can tell."""
        return self.private is None or (self.private / "complete").exists()

    def state(self) -> bytes:
        """Changes whenever the package lists do: what was looked up is valid as long as this stays the same."""
        told = self._run(["apt-config", *self._options(), "shell", "lists", "Dir::State::lists/d"], 10).stdout
        lists = Path(told.partition("=")[2].strip().strip("'"))
        files = sorted(path for path in lists.glob("*") if path.is_file())
        return repr([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]).encode()

    def update(self) -> None:
        """Fetch private lists. AptError says what apt complained about."""
        if self.private is None:
            raise ValueError("the system's package lists are root's")
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (self.private / folder).mkdir(parents=True, exist_ok=True)
        (self.private / "status").touch()
        done = self._run(["apt-get", *self._options(), "--error-on=any", "update"], UPDATE_LIMIT_S)
        if done.returncode != 0:
            raise AptError(f"apt-get update into {self.private} failed: {_complaint(done)}")
        (self.private / "complete").touch()

    def download(self, packages: Sequence[Package], folder: Path) -> list[Path]:
        """Fetch exactly these versions into a new folder. AptError when one is gone from the archive."""
        folder.mkdir()
        command = ["apt-get", *self._options(), "--quiet=2", "download", *map(str, packages)]
        done = self._run(command, DOWNLOAD_LIMIT_S, folder)
        if done.returncode != 0:
            raise AptError(f"apt-get download failed: {_complaint(done)}")
        return sorted(folder.glob("*.deb"))

    def _options(self) -> list[str]:
        # When we are root, apt would download as a user of its own who cannot write to our folders.
        settings = [*self._settings, *(["APT::Sandbox::User=root"] if os.geteuid() == 0 else [])]
        if self.private is not None:
            settings += [
                f"Dir::State={self.private / 'state'}",
                f"Dir::State::lists={self.private / 'state/lists'}",
                f"Dir::State::status={self.private / 'status'}",
                f"Dir::Cache={self.private / 'cache'}",
            ]
        return [word for setting in settings for word in ("-o", setting)]

    @staticmethod
    def _run(
        command: Sequence[str], limit_s: float, folder: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=limit_s,
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired as error:
            raise AptError(
                f"{' '.join(command[:1])} took more than {limit_s:.0f} s: is the network there?"
            ) from error


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .deb's files; links to folders that `folder` has already stay links.

    HostError when the archive is broken or the disk is full.
    """
    tar = ["tar", "--extract", "--keep-directory-symlink", "--no-same-owner", "--directory", str(folder)]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as source:
        done = subprocess.run(tar, stdin=source.stdout, capture_output=True, text=True, check=False)
        assert source.stdout is not None, "it is a pipe"
        source.stdout.close()  # else it would wait for a tar that has failed to read on
        status = source.wait()
    if status != 0 or done.returncode != 0:
        raise HostError(f"cannot unpack {archive.name} into {folder}: {_complaint(done)}")


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
    return "; ".join(errors[:3]) or done.stderr.strip()[-300:] or f"exit status {done.returncode}"
