//! Helpers of the engine's tests: an engine with stream peers on one segment.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test file uses some of it, and tests unwrap"
)]

pub mod guest;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vbackend_engine::counters::{Counters, Lane};
use vbackend_engine::{Engine, PortConfig};
use vbackend_proto::queue::Limits;
use vbackend_proto::segment::PortId;

pub const LIMITS: Limits = Limits { frames: 256, bytes: 1 << 21 };

pub fn config() -> PortConfig {
    PortConfig { limits: LIMITS, source: None, isolated: false, worker: None }
}

/// An Ethernet frame from host `source` to host `destination` (0xff: broadcast), `len` bytes, with a serial number.
pub fn frame(destination: u8, source: u8, len: usize, serial: u32) -> Vec<u8> {
    let mut frame = vec![0; len];
    let to = if destination == 0xff { [0xff; 6] } else { [2, 0, 0, 0, 0, destination] };
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, source]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    let tail = frame.len() - 4;
    if tail >= 14 {
        frame[tail..].copy_from_slice(&serial.to_be_bytes());
    }
    frame
}

pub fn wire(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut wire = Vec::new();
    for frame in frames {
        wire.extend_from_slice(&u32::try_from(frame.len()).unwrap().to_be_bytes());
        wire.extend_from_slice(frame);
    }
    wire
}

/// Read one frame from a stream; None at its end.
pub fn read_frame(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).ok()?;
    let mut frame = vec![0; u32::from_be_bytes(prefix) as usize];
    stream.read_exact(&mut frame).ok()?;
    Some(frame)
}

/// Add a stream port on `segment`; the returned socket is its peer's.
pub fn stream_port(engine: &Engine, segment: u64, config: PortConfig) -> (PortId, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let port = engine.add_port(config).unwrap();
    engine.join(port, segment).unwrap();
    engine.attach_stream(port, ours.into()).unwrap();
    (port, theirs)
}

/// Make the switch learn host `host` behind `peer`, by a frame to nobody.
pub fn introduce(engine: &Engine, port: PortId, peer: &mut UnixStream, host: u8) {
    let before = engine.counters(port).unwrap().rx.frames_in;
    peer.write_all(&wire(&[frame(host, host, 14, 0)])).unwrap();
    eventually("the switch sees the frame", || engine.counters(port).unwrap().rx.frames_in > before);
}

/// Wait until `condition` holds, at most ten seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn balanced(lane: &Lane) -> bool {
    lane.frames_in == lane.frames_out + lane.total_dropped() + lane.queued
}

pub fn assert_balanced(counters: &Counters) {
    assert!(balanced(&counters.rx) && balanced(&counters.tx), "frames are missing: {counters:?}");
}
