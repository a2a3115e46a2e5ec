"""The fuzz runner: its commands, and that the targets really build, read their corpora and notice a broken promise."""

import shutil
import subprocess
import sys

import pytest

from tests.fuzz import runner
from tools.devtool.run import ROOT, DevError


def test_every_target_has_its_source_and_its_corpus() -> None:
    names = set(runner.targets())
    assert {path.stem for path in (ROOT / runner.FOLDER / "fuzz_targets").glob("*.rs")} == names
    assert {path.name for path in (ROOT / runner.CORPORA).iterdir()} == names
    for name in names:
        assert any((ROOT / runner.CORPORA / name).iterdir()), f"{name} has no inputs"


def test_corpora_stay_small() -> None:
    sizes = [path.stat().st_size for path in (ROOT / runner.CORPORA).rglob("*") if path.is_file()]
    assert max(sizes) <= runner.MAX_LEN
    assert sum(sizes) <= 200_000, "merge into fewer inputs: see tests/fuzz/README.md"


def test_commands_name_their_folders() -> None:
    build = runner.build_command("a-b-c")
    assert build[:2] == ["cargo", "build"]
    assert build[-2:] == ["--target", "a-b-c"]
    assert "target/fuzz" in build
    command = runner.run_command("adapter", "a-b-c", ["-runs=0"], [runner.CORPORA / "adapter"])
    assert command == [
        "target/fuzz/a-b-c/release/adapter",
        "-max_len=1024",
        "-runs=0",
        "tests/fuzz/corpora/adapter",
    ]


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(DevError, match=r"no fuzz target stove: there are adapter, ") as caught:
        runner.main(["stove"])
    assert caught.value.status == 2


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for lacking, remedy in (("cargo", "tools/dev setup"), ("c\\+\\+", "apt install g\\+\\+")):
        name = lacking.replace("\\", "")
        monkeypatch.setattr(shutil, "which", lambda tool, name=name: None if tool == name else f"/bin/{tool}")
        with pytest.raises(DevError, match=remedy):
            runner.main([])


@pytest.mark.timeout(900)
def test_the_targets_build_and_replay_their_corpora() -> None:
    if lack := runner.missing_tools():
        pytest.skip(lack)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--replay"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in runner.targets():
        inputs = len(list((ROOT / runner.CORPORA / name).iterdir()))
        assert f"{inputs} files found in tests/fuzz/corpora/{name}" in done.stderr
