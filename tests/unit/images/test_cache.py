import os
import threading
from pathlib import Path

import pytest

from vbackend.errors import HostError
from vbackend.images.cache import ABANDONED_S, UNUSED_S, ImageCache, content_key, default_cache

KEY, OTHER = "0" * 20, "1" * 20


def publish(cache: ImageCache, name: str, key: str) -> Path:
    with cache.lock(name), cache.workspace() as work:
        built = work / "image"
        built.mkdir()
        (built / "vmlinuz").write_text(key)
        return cache.publish(built, name, key)


def test_key_depends_on_everything() -> None:
    parts = [("a", b"1"), ("b", b"2")]
    keys = {
        content_key(parts),
        content_key(parts[:1]),
        content_key(reversed(parts)),
        content_key([("a", b"12"), ("b", b"")]),
        content_key([("a 1", b""), ("b", b"2")]),
    }
    assert len(keys) == 5
    assert content_key(parts) == content_key(tuple(parts))
    assert all(len(key) == len(KEY) for key in keys)


def test_default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/vbackend")
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert default_cache() == Path.home() / ".cache/vbackend"


def test_published_images_are_found_and_used_ones_are_marked(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path)
    assert cache.find("small", KEY, 1.0) is None
    folder = publish(cache, "small", KEY)
    assert cache.find("small", KEY, 1e9) == folder
    assert folder.stat().st_mtime == 1e9
    assert cache.find("small", OTHER, 1.0) is None
    assert cache.find("big", KEY, 1.0) is None
    assert not [path for path in cache.images.iterdir() if path.name.startswith(".build-")]


def test_a_link_stands_for_an_image(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path)
    folder = publish(cache, "small", OTHER)
    for _ in range(2):
        cache.link("small", KEY, OTHER)
    assert cache.find("small", KEY, 1.0) == folder
    (folder / "vmlinuz").unlink()
    folder.rmdir()
    assert cache.find("small", KEY, 1.0) is None
    assert publish(cache, "small", KEY).is_dir(), "where a dead link was"


def test_prune(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path)
    old, new, other = (
        publish(cache, "small", KEY),
        publish(cache, "small", OTHER),
        publish(cache, "small-x", KEY),
    )
    cache.link("small", "2" * 20, KEY)
    now = 1e9
    for folder, used in ((old, now - UNUSED_S - 1), (new, now - UNUSED_S + 1), (other, 0.0)):
        os.utime(folder, (used, used))
    with cache.lock("small"):
        cache.prune("small", now)
        cache.prune("small", now)
    assert [folder.exists() for folder in (old, new, other)] == [False, True, True]
    assert not (cache.images / f"small-{'2' * 20}").is_symlink()


def test_what_killed_builders_left(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path)
    cache.images.mkdir()
    with cache.workspace() as living, cache.lock("small"):
        left = cache.images / ".build-x"
        (left / "deb").mkdir(parents=True)
        now = left.stat().st_mtime
        cache.prune("small", now)
        assert left.exists()
        os.utime(living, (now + ABANDONED_S, now + ABANDONED_S))
        cache.prune("small", now + ABANDONED_S + 1)
        assert (left.exists(), living.exists()) == (False, True)


def test_notes(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path)
    assert cache.recall("system", "k") is None
    cache.remember("system", "k", "one\ntwo\n")
    assert cache.recall("system", "k") == "one\ntwo\n"
    assert cache.recall("system", "other") is None
    cache.remember("system", "other", "")
    assert (cache.recall("system", "k"), cache.recall("system", "other")) == (None, "")


def test_builders_wait_for_each_other(tmp_path: Path) -> None:
    """Whoever comes second finds what the first has built."""
    cache, seen, entered = ImageCache(tmp_path), [], threading.Event()

    def second() -> None:
        entered.set()
        with ImageCache(tmp_path).lock("small"):
            seen.append(cache.find("small", KEY, 1.0))

    with cache.lock("small"):
        thread = threading.Thread(target=second)
        thread.start()
        assert entered.wait(10)
        with cache.workspace() as work:
            (work / "image").mkdir()
            folder = cache.publish(work / "image", "small", KEY)
    thread.join(10)
    assert seen == [folder]


def test_a_disk_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path)
    with (
        pytest.raises(HostError, match=f"cannot keep guest images in {tmp_path}.*XDG_CACHE_HOME"),
        cache.lock("x"),
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(FileNotFoundError), cache.lock("x"):
        raise FileNotFoundError(2, "not ours to explain")
