"""Where built images stay: a folder each, named by what went into it, appearing whole or not at all.

`$XDG_CACHE_HOME/vbackend/images/NAME-KEY/`, else below `~/.cache`. Two processes that build the same image at once
wait for each other; an image nobody used for a month is removed when the next one of its name is built.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from vbackend.errors import HostError

__all__ = ["ImageCache", "content_key", "default_cache"]

KEY_DIGITS: Final = 20
UNUSED_S: Final = 30 * 24 * 3600
ABANDONED_S: Final = 24 * 3600  # no build takes so long
_WORKSPACE: Final = ".build-"


def default_cache() -> Path:
    """vbackend's folder below the user's cache folder (XDG base directory specification)."""
    told = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(told) if Path(told).is_absolute() else Path.home() / ".cache") / "vbackend"


def content_key(parts: Iterable[tuple[str, bytes]]) -> str:
    """A name for what is made of these named parts; any change of a name, a content or their order changes it."""
    seen = hashlib.sha256()
    for name, content in parts:
        seen.update(f"{len(name.encode())} {name} {len(content)} ".encode())
        seen.update(content)
    return seen.hexdigest()[:KEY_DIGITS]


class ImageCache:
    """The folders of built images below `root`, which is made when it is first written to."""

    def __init__(self, root: Path) -> None:
        self.root: Final = root
        self.images: Final = root / "images"

    def find(self, name: str, key: str, now: float) -> Path | None:
        """The image's folder, marked as used at `now` (seconds since 1970); None when it was not built yet."""
        folder = self._folder(name, key)
        if not folder.is_dir():
            return None
        with contextlib.suppress(PermissionError):  # a cache that is shared and not ours
            os.utime(folder, (now, now))
        return folder.resolve()

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the right to build images of this name; waits for another builder."""
        with self._disk_errors():
            self.images.mkdir(parents=True, exist_ok=True)
            with (self.images / f".{name}.lock").open("w") as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                yield

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """An empty folder on the cache's file system, removed at the end."""
        with self._disk_errors(), tempfile.TemporaryDirectory(prefix=_WORKSPACE, dir=self.images) as folder:
            yield Path(folder)

    def publish(self, built: Path, name: str, key: str) -> Path:
        """Make `built`, a folder in the workspace, the image. Under the lock."""
        folder = self._folder(name, key)
        if folder.is_symlink():  # to an image that was removed
            folder.unlink()
        built.rename(folder)
        return folder

    def link(self, name: str, key: str, built_key: str) -> None:
        """Let `key` stand for the image that was built under `built_key`. Under the lock."""
        link = self._folder(name, key)
        link.unlink(missing_ok=True)
        link.symlink_to(self._folder(name, built_key).name)

    def recall(self, name: str, key: str) -> str | None:
        """The note last taken under this name, unless it was taken under another key."""
        try:
            first, _, note = self._note(name).read_text().partition("\n")
        except FileNotFoundError:
            return None
        return note if first == key else None

    def remember(self, name: str, key: str, note: str) -> None:
        """Replace the note of this name."""
        with self._disk_errors():
            self.images.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", prefix=".note-", dir=self.images, delete=False) as file:
                file.write(f"{key}\n{note}")
            Path(file.name).rename(self._note(name))

    def prune(self, name: str, now: float) -> None:
        """Remove images of this name that were not used for a month, and what killed builders left. Under the lock."""
        of_name = re.compile(rf"{re.escape(name)}-[0-9a-f]{{{KEY_DIGITS}}}")
        for folder in self.images.iterdir():
            if folder.name.startswith(_WORKSPACE):
                with contextlib.suppress(FileNotFoundError):  # its builder ends just now
                    if now - folder.stat().st_mtime > ABANDONED_S:
                        shutil.rmtree(folder, ignore_errors=True)
            if not of_name.fullmatch(folder.name):
                continue
            if folder.is_symlink():
                if not folder.exists():
                    folder.unlink()
            elif now - folder.stat().st_mtime > UNUSED_S:
                shutil.rmtree(folder)

    def _note(self, name: str) -> Path:
        return self.images / f".{name}.note"

    def _folder(self, name: str, key: str) -> Path:
        return self.images / f"{name}-{key}"

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise
            raise HostError(
                f"cannot keep guest images in {self.images}: {error.strerror}. It takes about 400 MB while building; "
                "set XDG_CACHE_HOME to a folder with space"
            ) from error
