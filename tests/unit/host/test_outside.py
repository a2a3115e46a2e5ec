import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.qemu_peers import eventually
from vbackend.errors import HostError
from vbackend.host.outside import Outside, has_default_route


def children() -> set[int]:
    """Of this thread; other tests may have left some."""
    return set(map(int, Path("/proc/thread-self/children").read_text().split()))


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    outside = Outside()
    yield outside
    outside.close()
    outside.close()
    assert outside.is_closed


async def test_a_helper_and_its_last_words(outside: Outside) -> None:
    for script, expected in (
        ("echo so; exit 2", "so\nit ended with status 2"),
        ("kill -9 $$", "it was killed by SIGKILL"),
    ):
        ended = await outside.run(["sh", "-c", script])
        assert await asyncio.wait_for(ended, 20) == expected


async def test_one_at_a_time(outside: Outside) -> None:
    ended = await outside.run(["sleep", "60"])
    with pytest.raises(HostError, match="cannot run true: a helper runs already"):
        await outside.run(["true"])
    await outside.stop()
    await outside.stop()
    assert ended.result() == "it was killed by SIGTERM"
    await outside.run(["true"])


async def test_what_cannot_be_run(outside: Outside) -> None:
    with pytest.raises(HostError, match="cannot run /no/such/program: No such file or directory"):
        await outside.run(["/no/such/program"])
    await outside.run(["true"])


@pytest.mark.parametrize("command", ["sleep 60", "/no/such/program"])
async def test_cancelled_before_the_answer(outside: Outside, command: str) -> None:
    running = asyncio.ensure_future(outside.run(command.split()))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await outside.run(["true"])


async def test_the_keeper_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    before = children()
    outside = Outside()
    ended = await outside.run(["sleep", "60"])
    (keeper,) = children() - before
    (helper,) = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    os.kill(keeper, signal.SIGKILL)
    assert await asyncio.wait_for(ended, 20) == "its keeper has ended"
    os.kill(int(helper), signal.SIGKILL)  # slirp4netns would have gone by itself
    assert "the keeper outside of our namespaces has ended" in caplog.text
    assert outside.is_closed
    await outside.stop()
    with pytest.raises(HostError, match="its keeper has ended; start vbackend again"):
        await outside.run(["true"])
    outside.close()


async def test_closing_ends_the_helper() -> None:
    before = children()
    outside = Outside()
    ended = await outside.run(["sleep", "60"])
    outside.close()
    assert ended.result() == "its keeper has ended"
    await eventually(lambda: children() <= before, "no child is left")


def test_a_python_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/no/such/python")
    with pytest.raises(HostError, match="cannot start a helper outside of our namespaces: No such file"):
        Outside()


ZEROS = "0" * 32


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"{ZEROS} 00 {ZEROS} 00 fd000009{'0' * 23}2 00000400 00000003 00000000 00000003 up0", True),
        (f"{ZEROS} 00 {ZEROS} 00 {ZEROS} ffffffff 00000001 00000000 00200200       lo", False),
        (f"{ZEROS} 00 {ZEROS} 00 {ZEROS} 00000400 00000003 00000000 00000203 up0", False),
        (f"fd000009{'0' * 24} 40 {ZEROS} 00 {ZEROS} 00000100 00000001 00000000 00000001 up0", False),
        (f"{ZEROS} 08 {ZEROS} 00 {ZEROS} 00000100 00000001 00000000 00000001 up0", False),
    ],
)
def test_whether_ipv6_leads_anywhere(line: str, expected: bool) -> None:
    other = f"fe80{'0' * 28} 40 {ZEROS} 00 {ZEROS} 00000100 00000001 00000000 00000001 up0"
    assert has_default_route(f"{other}\n{line}\n{other}\n") == expected
    assert not has_default_route("")
