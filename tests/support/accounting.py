"""The identity every port keeps in each direction: frames in = out + dropped + queued."""

from vbackend.snapshot import BackendSnapshot, LaneCounters, PortSnapshot

__all__ = ["assert_accounts", "lanes_of"]


def assert_accounts(snapshot: BackendSnapshot) -> None:
    """AssertionError that names the port, the lane and the numbers when one does not add up."""
    for port in snapshot.ports:
        for name, lane in lanes_of(port).items():
            accounted = lane.frames_out + lane.dropped + lane.queued
            assert lane.frames_in == accounted, (
                f"{port.name} {name}: {lane.frames_in} in, {accounted} accounted: {lane}"
            )
            assert lane.queued <= port.queue_frames, f"{port.name} {name}: {lane.queued} queued"
            assert all(count > 0 for count in lane.drops.values()), f"{port.name} {name}: {lane.drops}"


def lanes_of(port: PortSnapshot) -> dict[str, LaneCounters]:
    return {"rx": port.rx, "tx": port.tx}
