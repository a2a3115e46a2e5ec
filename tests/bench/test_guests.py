"""Every link between guests carries bytes, in each direction it is measured in, and leaves nothing behind."""

import os
from pathlib import Path

import pytest

from tests.bench import guests, namespace
from tests.bench.bulk import QEMU_PASST, QEMU_TAP, QEMU_VHOST, UML_HOST, UML_PAIR, summarise


@pytest.mark.root
@pytest.mark.guest
async def test_every_link_carries_bytes(tmp_path: Path) -> None:
    if why := namespace.lack() or guests.lack():
        pytest.skip(why)
    with namespace.private_namespace(f"vbbulk{os.getpid()}") as private:
        done, lacks = await guests.transfers(tmp_path, private, rounds=1, seconds=1, tell=lambda _doing: None)
    if missing := [why for why in lacks.values() if why.startswith(("there is no linux.uml", "no passt"))]:
        pytest.skip(missing[0])
    assert lacks == {}
    both = [(link, sends) for link in (UML_HOST, QEMU_VHOST, QEMU_TAP, QEMU_PASST) for sends in (True, False)]
    assert [(flow.link, flow.sends) for flow in summarise(done)] == [(UML_PAIR, True), *both]
    assert all(transfer.all_ns > 0 for transfer in done)
