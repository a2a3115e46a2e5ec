"""The demo from beginning to end: build, boot, ping, look, measure, tell, take away.

alice ── stream ──┐
                  switch ── tap demo0 (host, in a network namespace)
bob   ── stream ──┘
"""

import argparse
import asyncio
import os
import shutil
import signal
import sys
from contextlib import AsyncExitStack
from itertools import permutations
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from tests.support.guest import GuestError
from tools.demo import lab, report
from tools.demo.guests import GuestPlan, boot_all
from tools.demo.keep import keep_running
from tools.demo.measure import MeasureError, Place, RoundTrips, Stream, round_trips
from vbackend.errors import VbackendError
from vbackend.images import build_image
from vbackend.qemu.accel import accelerator

ARTIFACTS = Path(__file__).resolve().parent.parent.parent / "artifacts" / "demo"
TAP = "demo0"
HOST = ("10.77.0.1", "fd77::1")
GUESTS = {
    "alice": ("52:54:00:77:00:11", ("10.77.0.11", "fd77::11")),
    "bob": ("52:54:00:77:00:12", ("10.77.0.12", "fd77::12")),
}
IPERF_SECONDS = 3


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="tools/dev demo", description="Two guests and the host on one switch."
    )
    parser.add_argument("--keep", action="store_true", help="leave it running to play with, until Ctrl-C")
    args = parser.parse_args(argv)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    if os.geteuid() != 0:
        console.print("tools/dev demo: a tap and a network namespace need root: sudo tools/dev demo")
        return 1
    try:
        return asyncio.run(_interruptible(console, keep=args.keep))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("interrupted; everything is taken away")
        return 130
    except (lab.DemoError, MeasureError, GuestError, VbackendError) as error:
        console.print(f"[red]tools/dev demo:[/] {escape(str(error))}\nlogs: {_short(ARTIFACTS)}")
        return 1


async def _interruptible(console: Console, *, keep: bool) -> int:
    """SIGTERM ends the demo as Ctrl-C does: in order."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with AsyncExitStack() as undo:
        return await demo(console, undo, keep=keep)


async def demo(console: Console, undo: AsyncExitStack, *, keep: bool) -> int:
    console.print("[bold]vbackend:[/] two QEMU guests and the host on one switch\n")
    shutil.rmtree(ARTIFACTS, ignore_errors=True)
    ARTIFACTS.mkdir(parents=True)
    sockets = lab.socket_folder(undo)
    plans = [GuestPlan(name, *identity, sockets / f"{name}.sock") for name, identity in GUESTS.items()]

    with report.step(console, "guest image: built once, then taken from the cache") as say:
        image = await asyncio.to_thread(build_image, "small", progress=say)
    with report.step(console, "KVM: tried by booting something with it"):
        accel = await asyncio.to_thread(accelerator)
    with report.step(console, "vbackend: two stream ports, and a tap in a network namespace"):
        host = lab.HostPlace(undo, lab.namespace(undo), HOST, ARTIFACTS / "iperf3-host.log")
        ports = [f"stream:unix:{plan.socket},name={plan.name}" for plan in plans]
        ports += [f"tap:{TAP},netns={host.namespace},addr={HOST[0]}/24,addr={HOST[1]}/64,name=host"]
        vbackend = lab.start_vbackend(undo, sockets, ports, ARTIFACTS / "vbackend.log")
        pcap = ARTIFACTS / f"{TAP}.pcap"
        lab.capture(undo, host.namespace, TAP, pcap, ARTIFACTS / "tcpdump.log")
    with report.step(console, f"guests: boot {' and '.join(GUESTS)} with {accel.upper()}"):
        guests = await boot_all(undo, image, plans, ARTIFACTS, accel)
    with report.step(console, "guests: wait until their addresses work"):
        await asyncio.gather(*(place.guest.wait_ping(address) for place in guests for address in HOST))
    places: list[Place] = [*guests, host]

    trips: list[RoundTrips] = []
    for source, target in permutations(places, 2):
        with report.step(console, f"ping {source.name} → {target.name}, IPv4 and IPv6"):
            trips.append(await round_trips(source, target))

    console.print(f"\n$ vbackend {' '.join(vbackend.show_command()[1:])}")
    await vbackend.show()

    streams: list[Stream] = []
    for target in (guests[1], host):
        with report.step(console, f"iperf3 {guests[0].name} → {target.name}, {IPERF_SECONDS} s of TCP"):
            streams.append(await guests[0].iperf_to(target, seconds=IPERF_SECONDS))

    console.print()
    console.print(report.round_trips_table(trips))
    console.print(report.throughput_table(streams))
    console.print(report.ports_table(vbackend.snapshot()))
    console.print(f"capture of {TAP}: {_short(pcap)}\nlogs: {_short(ARTIFACTS)}")
    if keep:
        await keep_running(console, vbackend, host, guests)
    return 0 if all(row.reached for row in trips) else 1


def _short(path: Path) -> str:
    return os.path.relpath(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
