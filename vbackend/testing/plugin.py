"""The pytest plugin (entry point `vbackend`): fixtures that give tests what vbackend has.

    lab          the lab of the marker: @pytest.mark.lab("two.toml"), or of an overridden fixture `lab_file`
    make_lab     make_lab(SOURCE) starts a lab; any number of them
    fake_guest   fake_guest(PORT) is a guest in Python

pytest loads this at every start, so it imports only pytest; the rest comes with the first fixture that is used.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vbackend.testing.fake_guest import FakeGuest
    from vbackend.testing.lab import Lab
    from vbackend.testing.pool import LabPool
    from vbackend.testing.recorder import Tape
    from vbackend.testing.sources import Source

    Running = tuple[Lab, Tape | None, Path]  # the last one is the folder for what the test leaves

__all__ = ["fake_guest", "lab", "lab_file", "make_lab"]

_POOL = pytest.StashKey["LabPool"]()
_LABS = pytest.StashKey["list[Running]"]()  # of a test, while it runs


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vbackend", "labs of vbackend")
    group.addoption(
        "--vbackend-artifacts",
        metavar="DIR",
        help="Where failed tests leave captures and logs of their labs. [default: the test's tmp_path]",
    )
    group.addoption(
        "--vbackend-no-capture",
        action="store_true",
        help="Do not capture all links of all labs for the case that a test fails.",
    )
    group.addoption(
        "--vbackend-keep",
        metavar="N",
        type=_count,
        default=2,
        help="How many labs with reuse=True wait for the next test that wants them. [default: 2]",
    )


def _count(text: str) -> int:
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{number} is no number of labs; give 0 or more")
    return number


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "lab(source, reuse=False): the lab that the fixture `lab` is: a file relative to the test's folder, TOML text, "
        "a mapping or a Lab. reuse=True: restore its guests from a snapshot when an earlier test had the same lab.",
    )


@pytest.hookimpl(trylast=True)  # after the last fixtures; xdist does not wait for what a worker does later
def pytest_sessionfinish(session: pytest.Session) -> None:
    pool = session.config.stash.get(_POOL, None)
    if pool is not None:
        del session.config.stash[_POOL]
        pool.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and report.when != "teardown":
        _add_labs(item, report)
    return report


@pytest.fixture
def fake_guest() -> Iterator[Callable[..., FakeGuest]]:
    """Makes guests in Python: `fake_guest(PORT)`, as `vbackend.testing.FakeGuest`. They hang up at the end."""
    from vbackend.testing.fake_guest import FakeGuest

    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(FakeGuest(*args, **options))


@pytest.fixture
def lab_file(request: pytest.FixtureRequest) -> Source:
    """What the fixture `lab` runs: what the marker says. Override it to say it otherwise."""
    marker = request.node.get_closest_marker("lab")
    if marker is None or len(marker.args) != 1:
        raise pytest.UsageError(
            f"{request.node.nodeid}: which lab? give @pytest.mark.lab(SOURCE), or override the fixture lab_file"
        )
    source: Source = marker.args[0]
    return source


@pytest.fixture
def lab(request: pytest.FixtureRequest, lab_file: Source, make_lab: Callable[..., Lab]) -> Lab:
    """A running lab, with all guests set up. It is taken down after the test, or kept with reuse=True."""
    marker = request.node.get_closest_marker("lab")
    options: dict[str, Any] = {} if marker is None else marker.kwargs
    return make_lab(lab_file, **options)


@pytest.fixture
def make_lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    """Starts labs: `make_lab(SOURCE, reuse=False)`, with a source as the marker's. They are taken down at the end."""
    from vbackend.testing import recorder

    pool, base = _pool(request.config), request.path.parent
    labs = request.node.stash.setdefault(_LABS, [])
    with ExitStack() as stack:

        def make(source: Source, *, reuse: bool = False) -> Lab:
            start = pool.borrow if reuse else pool.start
            made = start(source, base=base, folder=tmp_path)
            if reuse:
                stack.callback(pool.give_back, made)
            else:
                stack.callback(made.down)
            tape = None
            if made.links and not request.config.getoption("vbackend_no_capture"):
                tape = recorder.Tape(made.control, pool.runtime)
                stack.callback(tape.stop)
            labs.append((made, tape, _artifacts(request.node, tmp_path)))
            return made

        yield make
        labs.clear()


def _pool(config: pytest.Config) -> LabPool:
    from vbackend.testing.pool import LabPool

    if _POOL not in config.stash:
        worker = os.environ.get("PYTEST_XDIST_WORKER", "")
        config.stash[_POOL] = LabPool(worker, keep=config.getoption("vbackend_keep"))
    return config.stash[_POOL]


def _add_labs(item: pytest.Item, report: pytest.TestReport) -> None:
    for lab, tape, folder in item.stash.get(_LABS, []):
        from vbackend.testing.report import leave_artifacts

        try:
            report.sections += leave_artifacts(lab, tape, folder)
        except OSError as error:
            report.sections.append((f"lab {lab.name}", f"cannot leave anything in {folder}: {error}"))


def _artifacts(item: pytest.Item, tmp_path: Path) -> Path:
    given = item.config.getoption("vbackend_artifacts")
    if given is None:
        return tmp_path / "vbackend"
    return Path(given).absolute() / re.sub(r"[^\w.=-]+", "-", item.nodeid).strip("-")[:200]
