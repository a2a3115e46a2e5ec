"""A rate limit on a stream port, seen by the peers: order kept, nothing lost below the queue's limit."""

import time
from pathlib import Path

from tests.support.accounting import assert_accounts
from tests.support.frames import mac, numbered
from tests.support.qemu_peers import FakeStreamPeer, eventually
from vbackend.backend import Backend
from vbackend.ports.parse import parse_port

CLOCK_SLACK_S = 0.02  # the engine's clock is up to a tick behind


async def test_frames_wait_for_their_turn(tmp_path: Path) -> None:
    a, b = f"{tmp_path}/a.sock", f"{tmp_path}/b.sock"
    frames = numbered(mac(1), mac(2), 200)
    length = len(frames[0])
    async with Backend(name="test", segment="cable") as backend:
        await backend.start([parse_port(f"stream:unix:{path}") for path in (a, b)])
        with await FakeStreamPeer.connect(a) as source, await FakeStreamPeer.connect(b) as peer:
            await eventually(lambda: backend.snapshot().ports[1].session, "both are connected")
            # So slow that nothing but the burst leaves, with a tenth frame that goes into debt.
            await backend.set_port("b", rate=1, burst=9 * length + 1)
            await source.send_frames(*frames)
            await eventually(lambda: backend.snapshot().ports[1].tx.frames_in == 200, "all are taken")
            tx = backend.snapshot().ports[1].tx
            assert (tx.frames_out, tx.queued, tx.dropped) == (10, 190, 0)
            begin = time.monotonic()
            rate = 1_000_000
            await backend.set_port("b", rate=rate, burst=10 * length)
            received = []
            for _ in frames:
                received.append(await peer.recv_frame())
                sent = backend.snapshot().ports[1].tx.bytes_out - 10 * length
                elapsed = time.monotonic() - begin + CLOCK_SLACK_S
                burst = backend.snapshot().ports[1].burst
                assert burst is not None
                assert sent <= burst + rate / 8 * elapsed + length
            assert received == frames
            await eventually(lambda: backend.snapshot().ports[1].tx.queued == 0, "the queue is empty")
            assert_accounts(backend.snapshot())
