"""What every test shares: skips that say why, hypothesis profiles, a folder of artefacts per test, signals.

Where VBACKEND_NO_SKIP=1 is set (by `tools/dev test` when CI is) a skipped test is a failed test: a machine
that must run a tier may not pass by lacking something.
"""

import gc
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Generator, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
NO_SKIP = os.environ.get("VBACKEND_NO_SKIP") == "1"
FAILED = pytest.StashKey[bool]()

# No deadlines: a shared machine's pauses are not findings.
settings.register_profile(
    "fast", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "ci", settings.get_profile("fast"), derandomize=True, database=None, print_blob=True
)
settings.register_profile("deep", settings.get_profile("fast"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "fast"))


@cache
def root_lack() -> str | None:
    """Why tests marked `root` cannot run here; None: they can."""
    if os.geteuid() != 0:
        return "needs root: run `tools/dev test` as root"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun: `modprobe tun`, or give the container the device"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"needs network namespaces ({tried.stderr.strip()}): give the container CAP_SYS_ADMIN"
    return None


@cache
def guest_lack() -> str | None:
    """Why tests marked `guest` cannot run here; None: they can."""
    if shutil.which("qemu-system-x86_64") is None:
        return "needs qemu-system-x86_64: `tools/dev setup` as root, or install qemu-system-x86"
    return None


LACKS: dict[str, Callable[[], str | None]] = {"root": root_lack, "guest": guest_lack}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker, lack in LACKS.items():
            if item.get_closest_marker(marker) is not None and (why := lack()):
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        _fail(report)
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if NO_SKIP and report.skipped:
        _fail(report)
    return report


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure that shows its reason."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"skipped, but nothing may be skipped here (VBACKEND_NO_SKIP=1): {reason}"


@pytest.fixture
def artifacts(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder for logs, captures and dumps of this test, kept only when it fails: artifacts/<test id>/."""
    name = re.sub(r"[^\w.=-]+", "-", request.node.nodeid.removeprefix("tests/")).strip("-")
    folder = ROOT / "artifacts" / name[:200]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder
    if not request.node.stash.get(FAILED, False):
        shutil.rmtree(folder)


@pytest.fixture
def in_terminal() -> Iterator[None]:
    """Signals as in a terminal, also where the tests run under nohup; afterwards as before."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def no_garbage() -> None:
    """For tests that count descriptors: those that earlier tests left to the garbage collector are closed."""
    gc.collect()
