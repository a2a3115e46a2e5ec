import pytest
from pydantic import ValidationError

from vbackend.snapshot import (
    BackendSnapshot,
    FdbEntry,
    LaneCounters,
    PortSnapshot,
    SegmentSnapshot,
    SessionInfo,
)

PORT = PortSnapshot(
    name="a",
    kind="stream",
    where="stream:unix:/tmp/a.sock",
    up=True,
    state="connected",
    session=SessionInfo(number=2, peer="unix pid 7 (qemu)", since=1.5),
    sessions=2,
    queue_frames=256,
    queue_bytes=1 << 21,
    rx=LaneCounters(frames_in=5, frames_out=3, bytes_out=180, drops={"runt": 2}),
    tx=LaneCounters(frames_in=9, frames_out=9, bytes_out=540),
)
BACKEND = BackendSnapshot(
    name="lab",
    version="1",
    pid=1,
    started=0.0,
    workers=1,
    segments=(
        SegmentSnapshot(
            name="switch",
            kind="switch",
            ports=("a",),
            fdb=(FdbEntry(mac="02:00:00:00:00:01", port="a", age=1.0),),
        ),
    ),
    ports=(PORT,),
)


def test_json_round_trip_keeps_everything() -> None:
    assert BackendSnapshot.model_validate_json(BACKEND.model_dump_json()) == BACKEND


def test_dropped_is_the_sum_of_all_reasons() -> None:
    assert LaneCounters(drops={"runt": 2, "oversize": 3}).dropped == 5
    assert LaneCounters().dropped == 0


def test_a_snapshot_does_not_change() -> None:
    with pytest.raises(ValidationError):
        PORT.name = "b"


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError):
        LaneCounters.model_validate({"frames": 1})
