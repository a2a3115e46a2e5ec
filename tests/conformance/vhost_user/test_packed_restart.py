"""Packed rings when vbackend is killed: the guest goes on, and the front-end only knows where the rings began.

QEMU tells a new back-end the base of the last orderly stop, since a packed ring has no index to read it from
(hw/virtio/virtio.c, virtio_queue_packed_restore_last_avail_idx).
"""

import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.vhost_user.lab import BAD, Lab, X, exchange, expect, vhost_lab
from tests.support.frames import frame, numbered
from vbackend.testing.vhost.frontend import FrontEnd
from vbackend.testing.vhost.nic import NO_FEATURES, Nic, Pair
from vbackend.testing.vhost.wire import Feature

BEGIN: Final = 0x8000_8000
BURST: Final = 40
LIVES: Final = 3


def reconnect(lab: Lab, name: str, nic: Nic) -> FrontEnd:
    """Show the rings of `nic` to a new back-end as QEMU does: same memory, same event descriptors, the first base."""
    front = FrontEnd.connect(lab.path(name), nic.front.memory)
    front.negotiate(nic.front.features, nic.front.protocol)
    front.set_memory()
    for queue in nic.front.queues:
        front.start(queue, base=BEGIN)
        front.enable(queue)
    front.barrier()
    return front


def find(pair: Pair, own: bytes, wanted: bytes) -> None:
    """Pass over what was in flight when vbackend died, some of it sent again, until this frame comes."""
    while expect(pair, own) != wanted:
        pass


@pytest.mark.parametrize("size", [64, 7], ids=["ring64", "ring7"])
@pytest.mark.parametrize(
    "extra", [NO_FEATURES, Feature.EVENT_IDX, Feature.EVENT_IDX | Feature.INDIRECT_DESC], ids=repr
)
def test_a_kill_loses_no_ring(tmp_path: Path, extra: Feature, size: int) -> None:
    """No chain comes back twice, which the drivers check, and all that is posted later comes back."""
    features = Feature.RING_PACKED | Feature.MRG_RXBUF | extra
    with ExitStack() as stack:
        with vhost_lab(tmp_path) as lab:
            bad, x = (
                stack.enter_context(
                    lab.nic(name, features=features, size=size, rx_chain=(300,), tx_cuts=(12,))
                )
                for name in ("bad", "x")
            )
            one, other = bad.pairs[0], x.pairs[0]
            exchange(one, BAD, other, X, (60, 1514))
            die_in_a_burst(lab, one, 1)
        for life in range(2, LIVES + 1):
            with vhost_lab(tmp_path) as lab:
                for name, nic in (("bad", bad), ("x", x)):
                    stack.callback(reconnect(lab, name, nic).sock.close)
                for source, target, there, here in ((one, other, X, BAD), (other, one, BAD, X)):
                    sent = frame(there, here, bytes([life]) * 1400)
                    source.send(sent)
                    find(target, there, sent)
                exchange(one, BAD, other, X, (60, 1514) * 10)
                one.flush()
                other.flush()
                die_in_a_burst(lab, one, life)


def die_in_a_burst(lab: Lab, pair: Pair, life: int) -> None:
    """Kill vbackend while it works on frames, or has just begun to, or has just done."""
    for each in numbered(X, BAD, BURST)[: BURST // life]:
        pair.send(each)
    lab.run.stop(signal.SIGKILL)
