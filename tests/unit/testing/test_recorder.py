"""vbackend/testing/recorder.py: captures of a running lab."""

from pathlib import Path

import pytest

from tests.support.frames import BROADCAST, frame, mac
from tests.support.pcapng import read
from tests.support.run import wait_until
from vbackend.errors import ConfigError
from vbackend.testing import Lab
from vbackend.testing.packets import PacketReader
from vbackend.testing.recorder import Recording, Tape

HELLO = frame(BROADCAST, mac(1), b"hello", size=60)


def test_packets_come_live_and_stay_in_the_file(lab: Lab, tmp_path: Path) -> None:
    a, b = lab.fake_guest("a"), lab.fake_guest("b")
    with Recording(lab.control, tmp_path / "all", links=["core"]) as recording:
        a.send(HELLO)
        packet = recording.expect("ether proto 0x88b5")
        assert (packet.frame, packet.source, packet.target, packet.verdict) == (HELLO, "a", "b", "")
        b.send(HELLO[::-1])
        assert recording.expect("less 1000").frame == HELLO[::-1]
        with pytest.raises(AssertionError, match=r"no 'arp' within 0.1 s; there is a → b: 52:54"):
            recording.expect("arp", timeout=0.1)
    assert [each.frame for each in recording.packets] == [HELLO, HELLO[::-1]]
    assert [each.data for each in read(recording.path).packets] == [HELLO, HELLO[::-1]]


def test_a_filter_that_is_none_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'no such thing'"):
        Recording(lab.control, tmp_path / "file", links=["core"], filter="no such thing")
    with pytest.raises(ConfigError, match="there is no link 'nowhere'"):
        Recording(lab.control, tmp_path / "file", links=["nowhere"])
    assert list(tmp_path.iterdir()) == []


def test_a_tape_has_the_last_of_all_links(lab: Lab, tmp_path: Path) -> None:
    a, _b, c = lab.fake_guest("a"), lab.fake_guest("b"), lab.fake_guest("c")
    frames = [frame(BROADCAST, mac(number), bytes([number]), size=1000) for number in range(12)]
    tape = Tape(lab.control, tmp_path, most=3000)
    saved = tmp_path / "saved"

    def kept() -> list[bytes]:
        tape.save(saved)
        return [packet.frame for packet in PacketReader().feed(saved.read_bytes())]

    c.send(HELLO)
    wait_until(lambda: HELLO in kept(), "the frame on the switch is on the tape")
    for each in frames:
        a.send(each)
        wait_until(lambda each=each: each in kept(), "the frame is on the tape")  # type: ignore[misc]
    tape.stop()
    assert 3 <= len(kept()) < len(frames)
    assert kept() == frames[-len(kept()) :]


def test_the_lab_may_be_first(lab: Lab, tmp_path: Path) -> None:
    recording = Recording(lab.control, tmp_path / "all", links=["core"])
    lab.down()
    recording.stop()
    recording.stop()
    assert recording.packets == []
