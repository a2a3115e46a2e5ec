"""A Debian archive in a folder, and apt set up to use nothing else: what image building needs, without a network.

Its kernel and programs are the smallest files that look right; the programs are the host's own, so that their shared
libraries are real.
"""

import hashlib
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["RECIPE", "Repository"]

RELEASE: Final = "6.0-test"
RECIPE: Final = """
description = "for tests"
kernel = "linux-image-test"
busybox = "busybox-test"
packages = ["tool"]
programs = ["/usr/bin/tool"]
overlay = "overlay"
memory_mib = 128
cmdline = "quiet"
[modules]
load = ["virtio_net"]
"""


class Repository:
    """Packages below `root`/archive; `configuration` is a file for APT_CONFIG."""

    def __init__(self, root: Path) -> None:
        self.archive: Final = root / "archive"
        self.configuration: Final = root / "apt.conf"
        self._stanzas: dict[str, str] = {}
        self._state = root / "system"
        (self._state / "lists/partial").mkdir(parents=True)
        (self._state / "cache/archives/partial").mkdir(parents=True)
        (self._state / "status").touch()
        self.archive.mkdir()
        sources = root / "sources.list"
        sources.write_text(f"deb [trusted=yes] file:{self.archive} ./\n")
        self.configuration.write_text(
            f'Dir::Etc::sourcelist "{sources}";\nDir::Etc::sourceparts "/dev/null";\n'
            f'Dir::State::lists "{self._state / "lists"}";\nDir::State::status "{self._state / "status"}";\n'
            f'Dir::Cache "{self._state / "cache"}";\nAPT::Sandbox::User "root";\n'
        )

    def add(self, name: str, version: str, files: Mapping[str, bytes], depends: str = "") -> Path:
        """Build a package and index it; a version that was there before is gone from the index, its file stays."""
        tree = self.archive.parent / f"{name}-{version}"
        for path, content in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content)
            (tree / path).chmod(0o755)
        control = (
            f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody\nDescription: test\n"
        )
        control += f"Depends: {depends}\n" if depends else ""
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(control)
        deb = self.archive / f"{name}_{version}_all.deb"
        subprocess.run(
            ["dpkg-deb", "--build", "--root-owner-group", tree, deb], capture_output=True, check=True
        )
        data = deb.read_bytes()
        self._stanzas[name] = (
            f"{control}Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        )
        (self.archive / "Packages").write_text("\n".join(self._stanzas.values()))
        return deb

    def update_system(self) -> None:
        """What root's `apt-get update` does."""
        subprocess.run(
            ["apt-get", "update"],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "APT_CONFIG": str(self.configuration)},
            capture_output=True,
            check=True,
        )

    def fill(self) -> None:
        """All that `RECIPE` names, libraries of the tool in a package of their own."""
        modules = f"lib/modules/{RELEASE}/kernel"
        self.add("linux-image-test", "1", {}, f"linux-image-{RELEASE}")
        self.add(
            f"linux-image-{RELEASE}",
            "1",
            {
                f"boot/vmlinuz-{RELEASE}": b"kernel 1",
                f"{modules}/drivers/virtio-net.ko": b"\0depends=virtio\0name=virtio_net\0",
                f"{modules}/virtio.ko": b"\0depends=\0alias=pci:v1AF4*\0name=virtio\0",
                f"{modules}/unwanted.ko": b"\0depends=\0name=unwanted\0",
            },
        )
        applets = b"#!/bin/sh\necho bin/ls\necho sbin/init\necho usr/bin/tool\n"
        self.add("busybox-test", "1", {"bin/busybox": applets})
        tool = Path(shutil.which("true") or "/bin/true").resolve()
        self.add(
            "tool",
            "1",
            {"usr/bin/tool": tool.read_bytes(), "usr/share/doc/tool": b"x"},
            "libtool-test (>= 1), adduser",
        )
        libraries = ("lib/x86_64-linux-gnu/libc.so.6", "lib64/ld-linux-x86-64.so.2")
        self.add("libtool-test", "1", {path: Path("/", path).read_bytes() for path in libraries})
