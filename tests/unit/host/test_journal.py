"""The journal's file and the sweep, with changes that are only recorded."""

import logging
import resource
from pathlib import Path

import pytest

from vbackend.errors import HostError
from vbackend.host.changes import AnyChange, BridgeMade
from vbackend.host.journal import Journal, journal_dir, still_made, sweep, undo_all


def change(number: int) -> BridgeMade:
    return BridgeMade(netns=None, inode=1, bridge=f"br{number}", mac="02:00:00:00:00:01")


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def left_by_a_dead_process(directory: Path, *changes: AnyChange) -> None:
    journal = Journal(directory)
    for each in changes:
        journal.record(each)
    journal.close()


def test_the_file_exists_while_there_are_changes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    journal.record(change(1))
    journal.record(change(2))
    assert journal.changes == (change(1), change(2))
    (path,) = files(tmp_path / "run")
    assert path.parent.stat().st_mode & 0o777 == 0o700
    journal.forget(change(1))
    assert still_made(path.read_text().splitlines()) == [change(2)]
    journal.forget(change(3))
    journal.forget(change(2))
    assert not files(tmp_path / "run")
    journal.record(change(4))
    assert len(files(tmp_path / "run")) == 1
    journal.forget(change(4))
    journal.close()


def test_a_living_process_is_not_swept(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record(change(1))
    assert sweep(lambda _: pytest.fail("touched"), tmp_path) == 0
    journal.forget(change(1))


def test_what_dead_processes_left_is_undone_newest_first(tmp_path: Path) -> None:
    left_by_a_dead_process(tmp_path, change(1), change(2), change(3))
    undone: list[AnyChange] = []

    def undo(each: AnyChange) -> bool:
        undone.append(each)
        return True

    assert sweep(undo, tmp_path) == 1
    assert undone == [change(3), change(2), change(1)]
    assert not files(tmp_path)
    assert sweep(undo, tmp_path) == 0


def test_what_others_use_still_stays_written_down(tmp_path: Path) -> None:
    left_by_a_dead_process(tmp_path, change(1), change(2), change(3))
    assert sweep(lambda each: each == change(2), tmp_path) == 0
    (path,) = files(tmp_path)
    assert still_made(path.read_text().splitlines()) == [change(3), change(1)]
    assert sweep(lambda _: True, tmp_path) == 1


def test_what_cannot_be_undone_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    left_by_a_dead_process(tmp_path, change(1), change(2))
    undone: list[AnyChange] = []

    def undo(each: AnyChange) -> bool:
        if each == change(2):
            raise HostError("the host refused")
        undone.append(each)
        return True

    assert sweep(undo, tmp_path) == 1
    assert undone == [change(1)]
    assert "the host refused" in caplog.text


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_cut_short_by_the_kill_is_skipped(cut: int) -> None:
    line = change(2).model_dump_json()
    assert still_made([change(1).model_dump_json(), line[:cut]]) == [change(1)]
    assert still_made(["", "[]", '{"kind":"unknown"}', "undone"]) == []


def test_an_undone_line_takes_one_of_two_equal_changes() -> None:
    line = change(1).model_dump_json()
    assert still_made([line, line, f"undone {line}"]) == [change(1)]
    assert still_made([f"undone {line}"]) == []


def test_every_kind_of_change_survives_the_file(tmp_path: Path) -> None:
    made = BridgeMade(netns="a b\nc", inode=2, bridge="br1", mac="02:00:00:00:00:02")
    left_by_a_dead_process(tmp_path, change(1), made)
    swept: list[AnyChange] = []

    def undo(each: AnyChange) -> bool:
        swept.append(each)
        return True

    sweep(undo, tmp_path)
    assert swept == [made, change(1)]


def test_without_a_directory_there_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    journal = Journal(tmp_path / "file" / "run")
    with caplog.at_level(logging.WARNING):
        journal.record(change(1))
        journal.record(change(2))
    assert len(caplog.records) == 1
    assert "set XDG_RUNTIME_DIR to a directory of yours" in caplog.text
    journal.forget(change(1))
    journal.close()
    assert sweep(lambda _: True, tmp_path / "none") == 0


def test_a_disk_that_is_full_for_a_while(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is undone meanwhile is undone; and the line that was cut short spoils no other."""
    journal = Journal(tmp_path)
    journal.record(change(1))
    (path,) = files(tmp_path)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, unlimited[1]))
    try:
        journal.record(change(2))
        journal.forget(change(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert "File too large" in caplog.text or "No space left" in caplog.text
    assert journal.changes == (change(1),)
    journal.record(change(3))
    assert still_made(path.read_text().splitlines()) == [change(3), change(1)]
    journal.close()


def test_a_journal_with_garbage(tmp_path: Path) -> None:
    left_by_a_dead_process(tmp_path, change(1))
    (path,) = files(tmp_path)
    path.write_bytes(b"\xff\n" + path.read_bytes())
    assert sweep(lambda each: each == change(1), tmp_path) == 1


@pytest.mark.parametrize(
    ("uid", "runtime", "expected"),
    [
        (0, "/run/user/0", "/run/vbackend"),
        (1000, "/run/user/1000", "/run/user/1000/vbackend"),
        (1000, "relative", "/run/vbackend"),
        (1000, "", "/run/vbackend"),
    ],
)
def test_the_directory(monkeypatch: pytest.MonkeyPatch, uid: int, runtime: str, expected: str) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setattr("os.geteuid", lambda: uid)
    assert journal_dir() == Path(expected)


@pytest.mark.parametrize(
    ("needs", "order", "left"),
    [
        ({}, [1, 2, 3], []),
        ({1: 2, 2: 3}, [3, 2, 1], []),
        ({1: 9}, [2, 3], [1]),
        ({1: 2, 2: 1}, [3], [1, 2]),
    ],
)
def test_what_is_in_use_is_tried_again(needs: dict[int, int], order: list[int], left: list[int]) -> None:
    """`needs`: which change has to be undone before."""
    undone: list[AnyChange] = []

    def undo(each: AnyChange) -> bool:
        free = all(change(before) in undone for number, before in needs.items() if each == change(number))
        undone.extend([each] if free else [])
        return free

    assert undo_all(undo, [change(1), change(2), change(3)]) == [change(number) for number in left]
    assert undone == [change(number) for number in order]
