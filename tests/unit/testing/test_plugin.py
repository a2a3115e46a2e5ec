"""vbackend/testing/plugin.py: runs of pytest with labs without VMs; those with are in tests/guests/test_plugin.py."""

import textwrap
from pathlib import Path

import pytest

from tests.unit.testing.conftest import LAB

OPTIONS = ("-p", "no:cacheprovider", "-p", "no:asyncio")


def run(pytester: pytest.Pytester, body: str, *options: str) -> pytest.RunResult:
    """A run of pytest on one test file, with the lab file two.toml beside it."""
    (pytester.path / "two.toml").write_text(LAB)
    pytester.makepyfile(textwrap.dedent(body))
    return pytester.runpytest_inprocess(*OPTIONS, *options)


def test_it_is_loaded_by_its_entry_point(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.pluginmanager.get_plugin("vbackend") is not None


def test_a_lab_by_file(pytester: pytest.Pytester) -> None:
    body = """
        import pytest

        @pytest.mark.lab("two.toml")
        def test_it(lab):
            a, b = lab.fake_guest("a"), lab.fake_guest("b")
            a.send(bytes(60))
            assert b.recv() == bytes(60)
            assert lab.name == "two-1"
    """
    run(pytester, body).assert_outcomes(passed=1)


def test_labs_by_text_mapping_and_fixture(pytester: pytest.Pytester) -> None:
    body = """
        import pytest
        from pathlib import Path

        @pytest.fixture
        def lab_file():
            return Path("two.toml")

        def test_overridden(lab):
            assert "core" in lab.links

        def test_several(make_lab):
            one = make_lab("[switch.lan]")
            two = make_lab({"switch": {"lan": {}}})
            assert one.name != two.name
    """
    run(pytester, body).assert_outcomes(passed=2)


def test_which_lab(pytester: pytest.Pytester) -> None:
    result = run(pytester, "def test_it(lab): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_it: which lab? give @pytest.mark.lab(SOURCE)*"])


def test_fewer_labs_than_none_cannot_wait(pytester: pytest.Pytester) -> None:
    result = run(pytester, "", "--vbackend-keep", "-1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--vbackend-keep: -1 is no number of labs; give 0 or more"])


def test_a_lab_that_makes_no_sense(pytester: pytest.Pytester) -> None:
    body = """
        import pytest

        @pytest.mark.lab("x = 1")
        def test_it(lab): pass
    """
    result = run(pytester, body)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*LabError: <lab>:1: x:*"])


def test_used_again(pytester: pytest.Pytester) -> None:
    body = """
        import pytest

        pytestmark = pytest.mark.lab("two.toml", reuse=True)

        @pytest.mark.parametrize("number", range(3))
        def test_it(lab, number):
            assert lab.name == "two-1"
            assert lab.link("core").stats.frames == 0
            a, b = lab.fake_guest("a"), lab.fake_guest("b")
            a.send(bytes(60))
            assert b.recv() == bytes(60)
            lab.link("core").down()
    """
    run(pytester, body).assert_outcomes(passed=3)


FAILS = """
    import pytest

    @pytest.mark.lab("two.toml")
    def test_it(lab):
        a, b = lab.fake_guest("a"), lab.fake_guest("b")
        a.send(bytes(60))
        b.recv()
        assert lab is None
"""


def test_a_failure_leaves_what_was_seen(pytester: pytest.Pytester) -> None:
    result = run(pytester, FAILS, "--vbackend-artifacts", "left")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*- lab two-1 -*", "files: *", "*TRAFFIC*"])
    left = next((pytester.path / "left").iterdir()) / "two-1"
    assert {path.name for path in left.iterdir()} == {"daemon.log", "links.pcapng", "show.txt"}
    assert bytes(60) in (left / "links.pcapng").read_bytes()


def test_a_failure_without_captures(pytester: pytest.Pytester) -> None:
    result = run(pytester, FAILS, "--vbackend-no-capture")
    result.assert_outcomes(failed=1)
    line = next(line for line in result.outlines if line.startswith("files: "))
    assert {path.name for path in Path(line.removeprefix("files: ")).iterdir()} == {"daemon.log", "show.txt"}


def test_nothing_is_left(pytester: pytest.Pytester) -> None:
    body = """
        import pytest
        from pathlib import Path

        @pytest.mark.lab("two.toml", reuse=True)
        def test_it(lab):
            Path("runtime").write_text(lab.control.environ["XDG_RUNTIME_DIR"])
    """
    run(pytester, body).assert_outcomes(passed=1)
    assert not Path((pytester.path / "runtime").read_text()).exists()


def test_workers_have_labs_of_their_own(pytester: pytest.Pytester) -> None:
    body = """
        import pytest
        from pathlib import Path

        @pytest.mark.lab("two.toml")
        @pytest.mark.parametrize("number", range(4))
        def test_it(lab, number):
            a, b = lab.fake_guest("a"), lab.fake_guest("b")
            a.send(bytes(60))
            assert b.recv() == bytes(60)
            Path(f"seen-{number}").write_text(f"{lab.name} {lab.control.environ['XDG_RUNTIME_DIR']}")
    """
    (pytester.path / "two.toml").write_text(LAB)
    pytester.makepyfile(textwrap.dedent(body))
    pytester.runpytest_subprocess(*OPTIONS, "-n", "2").assert_outcomes(passed=4)
    names, runtimes = zip(*(path.read_text().split() for path in pytester.path.glob("seen-*")), strict=True)
    assert len(set(names)) == 4
    assert len(set(runtimes)) == 2
    assert not any(Path(runtime).exists() for runtime in runtimes)


def test_a_folder_that_cannot_be_written(pytester: pytest.Pytester) -> None:
    (pytester.path / "left").write_text("a file")
    result = run(pytester, FAILS, "--vbackend-artifacts", "left")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["cannot leave anything in *left/*"])


def test_a_fixture_that_fails_after_the_lab(pytester: pytest.Pytester) -> None:
    body = """
        import pytest

        @pytest.fixture
        def more(lab):
            raise ValueError("no luck")

        @pytest.mark.lab("two.toml")
        def test_it(more): pass
    """
    result = run(pytester, body)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no luck*", "*- lab two-1 -*", "*TRAFFIC*"])
