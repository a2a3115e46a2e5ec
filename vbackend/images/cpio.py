"""Initramfs archives: cpio's "newc" format, written without root.

Pure: entries in, bytes out, the same bytes for the same entries (no times, every file owned by root). The format
is that of Linux' Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

__all__ = ["CharDevice", "Directory", "Entry", "File", "Symlink", "newc"]


@dataclass(frozen=True, slots=True)
class Directory:
    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Symlink:
    target: str


@dataclass(frozen=True, slots=True)
class CharDevice:
    major: int
    minor: int
    mode: int = 0o600


Entry = Directory | File | Symlink | CharDevice


def newc(entries: Mapping[PurePosixPath, Entry]) -> bytes:
    """The archive of these entries. Paths are relative to the root; parents that are missing become directories.

    ValueError for an absolute path, one with "..", or one below something that is no directory.
    """
    tree: dict[PurePosixPath, Entry] = {}
    for path in sorted(entries):
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"not a path below the root: {path}")
        for parent in reversed(path.parents[:-1]):
            above = tree.setdefault(parent, Directory())
            if not isinstance(above, Directory):
                raise ValueError(f"{path} lies below {parent}, which is no directory")
        tree[path] = entries[path]
    out = bytearray()
    for inode, (path, entry) in enumerate(tree.items(), start=1):
        out += _member(inode, str(path), entry)
    out += _header(0, 0, 1, 0, 0, 0, "TRAILER!!!")
    return bytes(out)


def _member(inode: int, name: str, entry: Entry) -> bytes:
    match entry:
        case Directory(mode):
            return _header(inode, stat.S_IFDIR | mode, 2, 0, 0, 0, name)
        case File(content, mode):
            return _header(inode, stat.S_IFREG | mode, 1, len(content), 0, 0, name) + _padded(content)
        case Symlink(target):
            data = target.encode()
            return _header(inode, stat.S_IFLNK | 0o777, 1, len(data), 0, 0, name) + _padded(data)
        case CharDevice(major, minor, mode):
            return _header(inode, stat.S_IFCHR | mode, 1, 0, major, minor, name)


def _header(inode: int, mode: int, links: int, size: int, major: int, minor: int, name: str) -> bytes:
    encoded = name.encode() + b"\0"
    # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    fields = (inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, len(encoded), 0)
    return _padded(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
