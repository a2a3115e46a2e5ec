import asyncio
import subprocess

import pytest

from tests.support.transfer import transfer


class Here:
    """The shell of this machine."""

    def __init__(self, got: str = "<$d/got") -> None:
        self._got = got

    async def check(self, command: str, *, timeout: float = 30.0) -> str:
        words = ["sh", "-c", command.replace("<$d/got", self._got)]
        done = await asyncio.to_thread(
            subprocess.run, words, capture_output=True, text=True, timeout=timeout, check=True
        )
        return done.stdout


async def test_what_was_sent_arrives() -> None:
    await transfer(Here(), Here(), "127.0.0.1", size=1 << 20)


async def test_other_bytes_are_noticed() -> None:
    with pytest.raises(AssertionError, match="arrived as others"):
        await transfer(Here(), Here("</dev/null"), "127.0.0.1", size=65536)
