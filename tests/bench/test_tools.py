"""The bench's own programs and processes, with a thousand frames: they count right, lose nothing and end."""

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path as FilePath

import pytest

from tests.bench import forwarders
from tests.bench.compiler import CompileError, compiled
from tests.bench.figures import summarise
from tests.bench.process import (
    BenchError,
    Load,
    cpu_ns,
    pin,
    prefer,
    preferred_session,
    read_line,
    running,
    settled_cpu_ns,
    until,
)
from tests.bench.runner import Plan, Run, Tools
from tests.bench.scenario import SCENARIOS, Forwarder, Path, Scenario, Suite

FRAMES = 1024


@pytest.fixture(scope="module")
def tools() -> Tools:
    try:
        return Tools(compiled("floor"), compiled("load"), compiled("vhost_load"))
    except CompileError as error:
        if "no C compiler" in str(error):
            pytest.skip(str(error))
        raise


def measured(forwarder: Forwarder, scenarios: tuple[Scenario, ...], tools: Tools, folder: FilePath) -> Run:
    plan = Plan(scenarios, (forwarder,), rounds=1, frames=FRAMES, window=256, pinned=False)
    return Run(plan, tools, folder)


def all_arrive(forwarder: Forwarder, scenarios: tuple[Scenario, ...], tools: Tools, folder: FilePath) -> None:
    if why := forwarders.lack(forwarder):
        pytest.skip(why)
    with measured(forwarder, scenarios, tools, folder) as run:
        assert run.skips == []
        samples = list(run.samples(lambda _number, _scenario: None))
    assert [s.scenario for s in samples] == list(scenarios)
    for sample in samples:
        assert (sample.sent, sample.lost) == (sample.scenario.frames(FRAMES), 0), sample
        assert sample.cpu_ns > 0
        assert sample.wall_ns > 0
    assert len(summarise(samples)) == len(scenarios)


STREAMS = tuple(s for s in SCENARIOS if s.path is Path.STREAM_STREAM)
TAPS = tuple(s for s in SCENARIOS if s.path.device == "tap")
TUNS = Suite.TUN.scenarios
VHOSTS = Suite.VHOST.scenarios


@pytest.mark.parametrize("forwarder", [Forwarder.FLOOR, Forwarder.VBACKEND, Forwarder.QEMU])
def test_streams_lose_nothing(forwarder: Forwarder, tools: Tools, tmp_path: FilePath) -> None:
    all_arrive(forwarder, STREAMS, tools, tmp_path)


@pytest.mark.root
@pytest.mark.parametrize("forwarder", [Forwarder.FLOOR, Forwarder.VBACKEND, Forwarder.QEMU])
def test_taps_lose_nothing(forwarder: Forwarder, tools: Tools, tmp_path: FilePath) -> None:
    before = netns()
    all_arrive(forwarder, TAPS, tools, tmp_path)
    assert netns() == before


@pytest.mark.root
@pytest.mark.parametrize("forwarder", Suite.TUN.forwarders)
def test_tuns_lose_nothing(forwarder: Forwarder, tools: Tools, tmp_path: FilePath) -> None:
    before = netns()
    all_arrive(forwarder, TUNS, tools, tmp_path)
    assert netns() == before


def test_rings_lose_nothing(tools: Tools, tmp_path: FilePath) -> None:
    all_arrive(Forwarder.VBACKEND, VHOSTS, tools, tmp_path)


def test_dpdk_loses_nothing_and_spins_only_while_measured(tools: Tools, tmp_path: FilePath) -> None:
    all_arrive(Forwarder.DPDK, VHOSTS, tools, tmp_path)
    (again := tmp_path / "again").mkdir()
    with measured(Forwarder.DPDK, VHOSTS[:1], tools, again) as run:
        assert run.idle(0.2)[Forwarder.DPDK] > 0


@pytest.mark.root
def test_packets_for_a_tun_are_whole(tools: Tools, tmp_path: FilePath) -> None:
    """What the generator's guest sends: its first frame, after the 4 bytes of its length."""
    source, destination = bytes.fromhex("02766200000a"), bytes.fromhex("02766200000b")
    ear = socket.socket(socket.AF_UNIX)
    with ear:
        ear.bind(str(tmp_path / "a.sock"))
        ear.listen(1)
        ear.settimeout(10)
        # The loopback device stands in for the tun: the guest sends first, whoever the other side is.
        command = [str(tools.load), f"stream:{tmp_path / 'a.sock'}", "tun:lo"]
        with running(command, tmp_path / "log", pipes=True):
            guest, _ = ear.accept()
            with guest:
                guest.settimeout(10)
                frame = guest.recv(68, socket.MSG_WAITALL)[4:]
    assert (frame[:6], frame[6:12], frame[12:14]) == (destination, source, b"\x08\x00")
    packet = frame[14:]
    assert (packet[0], int.from_bytes(packet[2:4]), packet[9]) == (0x45, 50, socket.IPPROTO_UDP)
    total = sum(int.from_bytes(packet[at : at + 2]) for at in range(0, 20, 2))
    assert total % 0xFFFF == 0  # RFC 1071: the sum over a header with its checksum is all ones
    assert int.from_bytes(packet[24:26]) == 30  # UDP's length
    assert packet[12:20] == bytes([192, 0, 2, 2, 127, 0, 0, 1])


def netns() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines() if line.startswith(f"vbbench{os.getpid()}")}


def test_vde_switch_forwards(tools: Tools, tmp_path: FilePath) -> None:
    """Its data sockets hold few datagrams (net.unix.max_dgram_qlen), so it may lose some; most arrive."""
    if why := forwarders.lack(Forwarder.VDE):
        pytest.skip(why)
    with measured(Forwarder.VDE, STREAMS[:1], tools, tmp_path) as run:
        assert run.skips == []
        (sample,) = run.samples(lambda _number, _scenario: None)
    assert sample.arrived > FRAMES // 2


def test_idle_time_is_per_forwarder(tools: Tools, tmp_path: FilePath) -> None:
    with measured(Forwarder.FLOOR, STREAMS[:1], tools, tmp_path) as run:
        assert run.idle(0.05) == {Forwarder.FLOOR: 0}


def test_frames_nobody_forwards_are_given_up(tools: Tools, tmp_path: FilePath) -> None:
    """A forwarder that stops forwarding costs the run its frames, not its end."""
    black_hole = """
import socket, sys, threading
ears = [socket.socket(socket.AF_UNIX) for _ in range(2)]
for ear, path in zip(ears, sys.argv[1:]):
    ear.bind(path)
    ear.listen(1)
print("ready", flush=True)
a, b = (ear.accept()[0] for ear in ears)
a.sendall(b.recv(68, socket.MSG_WAITALL))
b.sendall(a.recv(68, socket.MSG_WAITALL))
while a.recv(65536):
    pass
"""
    paths = [str(tmp_path / name) for name in ("a.sock", "b.sock")]
    log = tmp_path / "log"
    with ExitStack() as stack:
        child = stack.enter_context(running([sys.executable, "-c", black_hole, *paths], log))
        until(lambda: log.read_text() == "ready\n", "black hole", child, log)
        sides = [f"stream:{path}" for path in paths]
        load = stack.enter_context(Load.connected([str(tools.load), *sides], tmp_path / "load.log"))
        outcome = load.run(64, 1, 32, 256)
    assert (outcome.sent, outcome.arrived) == (32, 0)


def test_load_without_forwarder_says_so(tools: Tools, tmp_path: FilePath) -> None:
    command = [str(tools.load), "stream:/nowhere/a.sock", "stream:/nowhere/b.sock"]
    with pytest.raises(BenchError, match=r"load: /nowhere/a\.sock: No such file"), ExitStack() as stack:
        stack.enter_context(Load.connected(command, tmp_path / "log"))


def test_vhost_load_says_what_a_backend_lacks(tools: Tools, tmp_path: FilePath) -> None:
    """A back-end without any feature: its answer to GET_FEATURES, the first request."""
    featureless = """
import socket, struct, sys
ear = socket.socket(socket.AF_UNIX)
ear.bind(sys.argv[1])
ear.listen(1)
print("ready", flush=True)
peer, _ = ear.accept()
for _ in range(2):
    request, _, _ = struct.unpack("=III", peer.recv(12, socket.MSG_WAITALL))
    peer.sendall(struct.pack("=IIIQ", request, 5, 8, 0))
peer.recv(1)
"""
    path, log = tmp_path / "a.sock", tmp_path / "log"
    with ExitStack() as stack:
        child = stack.enter_context(running([sys.executable, "-c", featureless, str(path)], log))
        until(lambda: log.read_text() == "ready\n", "featureless back-end", child, log)
        command = [str(tools.vhost_load), f"split:{path}", f"split:{path}"]
        with pytest.raises(BenchError, match=r"lacks features 0x160008000, or REPLY_ACK"):
            stack.enter_context(Load.connected(command, tmp_path / "load.log"))


def test_forwarder_that_does_not_start_is_left_out(tools: Tools, tmp_path: FilePath) -> None:
    broken = Tools(FilePath("/bin/false"), tools.load, tools.vhost_load)
    with measured(Forwarder.FLOOR, STREAMS[:1], broken, tmp_path) as run:
        assert [(s.what, "exit status 1" in s.why) for s in run.skips] == [("floor stream-stream", True)]
        assert list(run.samples(lambda _number, _scenario: None)) == []


def test_compiled_once_per_source(tmp_path: FilePath, tools: Tools) -> None:
    first = compiled("floor", tmp_path)
    made = first.stat().st_mtime_ns
    assert compiled("floor", tmp_path) == first
    assert first.stat().st_mtime_ns == made
    assert first.name == tools.floor.name


def test_cpu_time_of_a_process_grows_with_its_work(tmp_path: FilePath) -> None:
    program = "import sys\nfor line in sys.stdin:\n sum(range(1000000))\n print('done', flush=True)"
    with running([sys.executable, "-c", program], tmp_path / "log", pipes=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def work() -> None:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(b"\n")
            child.stdin.flush()
            assert read_line(child.stdout.fileno(), 60) == "done"

        work()
        before = settled_cpu_ns(child.pid)
        assert settled_cpu_ns(child.pid) == before
        work()
        assert settled_cpu_ns(child.pid) > before
        assert cpu_ns(child.pid) >= before


def test_pin_binds_every_thread(tmp_path: FilePath) -> None:
    cpu = min(os.sched_getaffinity(0))
    with running(["sleep", "60"], tmp_path / "log") as child:
        pin(child.pid, None)
        assert os.sched_getaffinity(child.pid) == os.sched_getaffinity(0)
        pin(child.pid, cpu)
        assert os.sched_getaffinity(child.pid) == {cpu}


@pytest.mark.root
def test_preferred_before_other_sessions(tmp_path: FilePath) -> None:
    if not FilePath("/proc/self/autogroup").exists():
        pytest.skip("this kernel has no autogroups (CONFIG_SCHED_AUTOGROUP)")
    ours = FilePath("/proc/self/autogroup")
    before = ours.read_text()
    with running(["sleep", "60"], tmp_path / "log") as child:
        prefer(child.pid)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == -15
        assert FilePath(f"/proc/{child.pid}/autogroup").read_text().split()[-1] == "-15"
    assert ours.read_text() == before
    with preferred_session():
        assert not before or ours.read_text().split()[-1] == "-15"
    assert ours.read_text() == before


def test_read_line_gives_up() -> None:
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, b"one\ntw")
        assert read_line(read_end, 5) == "one"
        assert read_line(read_end, 0.01) is None
    finally:
        os.close(read_end)
        os.close(write_end)
