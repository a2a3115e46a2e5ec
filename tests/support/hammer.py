"""Memory that another process rewrites as fast as it can, as a guest's other processors do while the back-end reads it.

    with hammered(region, [(address, [b"one value", b"another"]), ...]):
        ...

Each blow picks a place and puts one of its values there; values are short, so most are written in one piece.
"""

import json
import mmap
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from vbackend.testing.vhost.memory import Region

__all__ = ["Place", "hammered"]

Place = tuple[int, Sequence[bytes]]  # guest address, and what is put there
_ROOT: Final = Path(__file__).resolve().parents[2]
_BLOWS: Final = 1 << 14  # chosen beforehand, then repeated


@contextmanager
def hammered(region: Region, places: Sequence[Place], seed: int = 1) -> Iterator[None]:
    """Hammer these places of a region during the block."""
    shown = [
        (region.offset + address - region.guest_address, [value.hex() for value in values])
        for address, values in places
    ]
    with subprocess.Popen(
        [sys.executable, "-m", __name__, str(region.fd), str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[region.fd],
        cwd=_ROOT,
    ) as child:
        try:
            assert child.stdin is not None and child.stdout is not None  # noqa: PT018
            child.stdin.write(json.dumps(shown).encode() + b"\n")
            child.stdin.flush()
            assert child.stdout.readline() == b"hammering\n"
            yield
            assert child.poll() is None, "it hammered all the time"
        finally:
            child.kill()


def _hammer(fd: int, seed: int) -> None:
    """Until it is killed."""
    places = json.loads(sys.stdin.readline())
    chance = random.Random(seed)
    blows = []
    for _ in range(_BLOWS):
        at, values = chance.choice(places)
        value = bytes.fromhex(chance.choice(values))
        blows.append((slice(at, at + len(value)), value))
    memory = mmap.mmap(fd, 0)
    print("hammering", flush=True)
    while True:
        for place, value in blows:
            memory[place] = value


if __name__ == "__main__":
    _hammer(int(sys.argv[1]), int(sys.argv[2]))
