"""A newer QEMU beside the installed one: the one of Debian's backports, unpacked below the cache and never installed.

    binary = backports_qemu()  # a program to start in place of qemu-system-x86_64

The first call downloads 40 MB, later ones find it in the cache of guest images.
"""

import re
import subprocess
import time
from pathlib import Path
from typing import Final

from vbackend.errors import HostError
from vbackend.images.apt import Apt, AptError, follow, unpack
from vbackend.images.cache import ImageCache, content_key, default_cache
from vbackend.qemu.version import qemu_version

__all__ = ["archive_site", "backports_qemu", "codename"]

NAME: Final = "qemu-backports"
ROOT: Final = "qemu-system-x86"
PARTS: Final = frozenset({ROOT, "qemu-system-common", "qemu-system-data", "seabios", "ipxe-qemu"})
PROGRAM: Final = "qemu-system-x86_64"

# QEMU looks for its firmware where it would be installed, so it is told.
WRAPPER: Final = f"""#!/bin/sh
usr=$(dirname "$(readlink -f "$0")")/usr
export LD_LIBRARY_PATH="$usr/lib/x86_64-linux-gnu" QEMU_MODULE_DIR="$usr/lib/x86_64-linux-gnu/qemu"
exec "$usr/bin/{PROGRAM}" -L "$usr/share/seabios" -L "$usr/share/qemu" -L "$usr/lib/ipxe/qemu" "$@"
"""


def backports_qemu(cache_dir: Path | None = None) -> Path:
    """The path of the program. HostError: this is no Debian with backports, or they cannot be reached."""
    cache = ImageCache(cache_dir or default_cache())
    key = content_key([("wrapper", WRAPPER.encode()), ("packages", repr(sorted(PARTS)).encode())])
    found = cache.find(NAME, key, time.time())
    if found is None:
        with cache.lock(NAME):
            found = cache.find(NAME, key, time.time()) or _fetch(cache, key)
            cache.prune(NAME, time.time())
    return found / PROGRAM


def codename(os_release: str) -> str:
    """Debian's name for this release. HostError: it is not Debian."""
    fields: dict[str, str] = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', os_release, re.MULTILINE))
    if fields.get("ID") != "debian" or "VERSION_CODENAME" not in fields:
        raise HostError("backports are Debian's, and this is not a release of Debian")
    return fields["VERSION_CODENAME"]


def archive_site(targets: str, release: str) -> str:
    """The mirror that apt takes `release` from, out of lines of site and release. HostError: there is none."""
    for line in targets.splitlines():
        site, _, name = line.partition(" ")
        if name == release:
            return site
    raise HostError(f"apt has no source for Debian {release}, so none for its backports; see sources.list(5)")


def _fetch(cache: ImageCache, key: str) -> Path:
    """Download, unpack, and try it. Under the lock."""
    with cache.workspace() as work:
        apt = _backports(cache.root / "apt-backports")
        if not apt.has_lists():
            apt.update()
        try:
            archives = _download(apt, work / "deb")
        except AptError:  # the lists are older than the archive
            apt.update()
            archives = _download(apt, work / "newer")
        built = work / NAME
        built.mkdir()
        for archive in archives:
            unpack(archive, built)
        program = built / PROGRAM
        program.write_text(WRAPPER)
        program.chmod(0o755)
        version = qemu_version(str(program))
        if version <= qemu_version():
            raise HostError(f"the QEMU of backports, {version}, is not newer than the installed one")
        return cache.publish(built, NAME, key)


def _download(apt: Apt, folder: Path) -> list[Path]:
    """QEMU and the libraries that the installed one does not need: a backport is built for this release."""
    present = _output("dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n").splitlines()
    installed = {line.partition(" ")[0] for line in present if line.endswith(" installed")}

    def wanted(name: str) -> bool:
        return name in PARTS or (name.startswith("lib") and name not in installed)

    return apt.download(follow([ROOT], wanted, apt.show), folder)


def _backports(private: Path) -> Apt:
    """apt with lists of its own, of this release and its backports, from the mirror that the system uses."""
    release = codename(Path("/etc/os-release").read_text())
    targets = _output("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages")
    site = archive_site(targets, release)
    private.mkdir(parents=True, exist_ok=True)
    sources = private / "sources.list"
    sources.write_text(f"deb {site} {release} main\ndeb {site} {release}-backports main\n")
    settings = [f"Dir::Etc::sourcelist={sources}", "Dir::Etc::sourceparts=-"]
    return Apt(private, settings=[*settings, f"APT::Default-Release={release}-backports"])


def _output(*command: str) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(f"cannot run {command[0]}: {error}") from error
    return done.stdout
