"""Files that are written while a lab runs: begun once, continued after a kill."""

import asyncio
import errno
import io
import os
from pathlib import Path

import pytest

from tests.support.pcapng import parse
from vbackend.backend import Backend
from vbackend.errors import ConfigError, HostError
from vbackend.lab import recordings as module
from vbackend.lab.model import Capture
from vbackend.lab.recordings import Recordings, whole_length
from vbackend.lab.state import LabFolder

BLOCK = bytes.fromhex("05000000 10000000 00000000 10000000")
FRAME = b"\xff" * 6 + b"\x02\0\0\0\0\x01" + b"\x08\x00" + bytes(50)


@pytest.mark.parametrize(
    ("content", "length"),
    [
        (b"", 0),
        (BLOCK, 16),
        (BLOCK + BLOCK[:7], 16),
        (BLOCK + BLOCK[:15], 16),
        (BLOCK * 3, 48),
        (BLOCK + bytes(16), 16),
        (b"no pcapng at all", 0),
    ],
)
def test_whole_blocks(tmp_path: Path, content: bytes, length: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(content)
    with path.open("rb") as file:
        assert whole_length(file) == length


async def test_begun_stopped_and_continued(tmp_path: Path) -> None:
    folder = LabFolder("t", {"XDG_RUNTIME_DIR": str(tmp_path)})
    folder.make()
    path = tmp_path / "lab.pcapng"
    path.write_bytes(b"what was here before")
    capture = Capture(file=str(path))
    async with Backend(name="t", segment=None) as backend:
        await backend.start([])
        backend.add_segment("lan", "switch")
        one, two = [await backend.open_channel(name, segment="lan") for name in "ab"]
        first = Recordings(folder, backend)
        await first.start(capture)
        await one.send(FRAME)
        assert await two.recv() == FRAME
        await first.stop(str(path))
        with path.open("ab") as file:
            file.write(b"\x06\0\0\0\xff")  # as a kill leaves it
        second = Recordings(folder, backend)
        await second.start(capture)
        await one.send(FRAME)
        assert await two.recv() == FRAME
        await second.close()
        with pytest.raises(ConfigError, match="there is no link 'x'"):
            await second.start(Capture(file=str(path), links=("x",)))
        with pytest.raises(HostError, match="cannot write it"):
            await second.start(Capture(file=str(tmp_path)))
    content = path.read_bytes()
    again = content.index(content[:4], 4)  # the second section's head
    assert [len(parse(part).packets) for part in (content[:again], content[again:])] == [2, 2]


@pytest.mark.parametrize("somebody_reads", [True, False])
async def test_a_named_pipe_is_no_file(tmp_path: Path, somebody_reads: bool) -> None:
    folder = LabFolder("t", {"XDG_RUNTIME_DIR": str(tmp_path)})
    folder.make()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK) if somebody_reads else -1
    async with Backend(name="t", segment=None) as backend:
        with pytest.raises(HostError, match=r"pipe': cannot write it: (it is no file|No such device)"):
            await Recordings(folder, backend).start(Capture(file=str(pipe)))
    if reader >= 0:
        os.close(reader)


async def test_a_full_disk_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    reader = asyncio.StreamReader()
    reader.feed_data(BLOCK)
    await module._copy(reader, Full(), "/x.pcapng")
    assert "capture /x.pcapng: what comes from now on is lost: No space left on device" in caplog.text
