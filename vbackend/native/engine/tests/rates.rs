//! Rate limits: what may leave leaves, the rest waits in order, and nothing is unaccounted.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Instant;

use common::{assert_balanced, config, eventually, frame, read_frame, stream_port, wire};
use vbackend_engine::{Engine, PortConfig};
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::queue::Limits;
use vbackend_proto::segment::PortId;
use vbackend_proto::shaper::Rate;

/// A byte a second: what is held stays held as long as a test runs.
const CRAWL: Rate = Rate { bits_per_s: 8, burst_bytes: 2_000 };

const FRAME_LEN: usize = 1_500;

/// Send frames `serials` of [`FRAME_LEN`] bytes into the segment, and wait until the port has counted them.
fn send(engine: &Engine, port: PortId, source: &mut UnixStream, serials: std::ops::Range<u32>) {
    let before = engine.counters(port).unwrap().tx.frames_in;
    let frames: Vec<_> = serials.map(|serial| frame(2, 1, FRAME_LEN, serial)).collect();
    source.write_all(&wire(&frames)).unwrap();
    eventually("the frames are counted", || {
        let counters = engine.counters(port).unwrap();
        assert_balanced(&counters);
        counters.tx.frames_in == before + frames.len() as u64
    });
}

/// Frames out, queued, dropped.
fn fates(engine: &Engine, port: PortId) -> (u64, u64, u64) {
    let counters = engine.counters(port).unwrap();
    assert_balanced(&counters);
    (counters.tx.frames_out, counters.tx.queued, counters.tx.total_dropped())
}

#[test]
fn what_the_bucket_does_not_pay_waits_in_order() {
    for workers in [1, 2] {
        let engine = Engine::new(workers, 1).unwrap();
        let segment = engine.add_cable().unwrap();
        let (_, mut source) = stream_port(&engine, segment, config());
        let (port, mut peer) = stream_port(&engine, segment, config());
        engine.set_rate(port, Some(CRAWL)).unwrap();
        send(&engine, port, &mut source, 0..10);
        eventually("the second frame went into debt", || fates(&engine, port) == (2, 8, 0));
        send(&engine, port, &mut source, 10..20);
        eventually("the others wait", || fates(&engine, port) == (2, 18, 0));
        engine.set_rate(port, Some(Rate { bits_per_s: 8_000_000, burst_bytes: 10_000 })).unwrap();
        for serial in 0..20 {
            assert_eq!(read_frame(&mut peer), Some(frame(2, 1, FRAME_LEN, serial)));
        }
        eventually("the clock lets all go", || fates(&engine, port) == (20, 0, 0));
        engine.set_rate(port, Some(CRAWL)).unwrap();
        engine.set_rate(port, None).unwrap();
        send(&engine, port, &mut source, 20..40);
        eventually("without a limit all go", || fates(&engine, port) == (40, 0, 0));
    }
}

#[test]
fn no_limit_lets_go_of_what_waited() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_cable().unwrap();
    let (_, mut source) = stream_port(&engine, segment, config());
    let (port, _peer) = stream_port(&engine, segment, config());
    engine.set_rate(port, Some(CRAWL)).unwrap();
    send(&engine, port, &mut source, 0..10);
    engine.set_rate(port, None).unwrap();
    assert_eq!(fates(&engine, port), (10, 0, 0), "at once: a command ends with the flush");
}

#[test]
fn a_full_queue_drops_and_a_detached_port_purges() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_cable().unwrap();
    let (_, mut source) = stream_port(&engine, segment, config());
    let small = PortConfig { limits: Limits { frames: 5, bytes: 1 << 20 }, ..config() };
    let (port, mut peer) = stream_port(&engine, segment, small);
    engine.set_rate(port, Some(CRAWL)).unwrap();
    send(&engine, port, &mut source, 0..20);
    assert_eq!(fates(&engine, port), (2, 5, 13));
    assert_eq!(engine.counters(port).unwrap().tx.drops[DropReason::QueueFull as usize], 13);
    engine.detach(port).unwrap();
    assert_eq!(fates(&engine, port), (2, 0, 18));
    assert_eq!(engine.counters(port).unwrap().tx.drops[DropReason::Removed as usize], 5);
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, wire(&[frame(2, 1, FRAME_LEN, 0), frame(2, 1, FRAME_LEN, 1)]));
    // The next session begins with the debt of the last one.
    let (ours, _theirs) = UnixStream::pair().unwrap();
    engine.attach_stream(port, ours.into()).unwrap();
    send(&engine, port, &mut source, 20..21);
    assert_eq!(fates(&engine, port), (2, 1, 18));
}

#[test]
fn a_burst_that_is_paid_for_is_not_dropped_by_a_short_queue() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_cable().unwrap();
    let (_, mut source) = stream_port(&engine, segment, config());
    let small = PortConfig { limits: Limits { frames: 1, bytes: 1 << 20 }, ..config() };
    let (port, _peer) = stream_port(&engine, segment, small);
    engine.set_rate(port, Some(Rate { burst_bytes: 20 * FRAME_LEN as u64, ..CRAWL })).unwrap();
    send(&engine, port, &mut source, 0..20);
    assert_eq!(fates(&engine, port), (20, 0, 0));
}

#[test]
fn a_frame_cut_off_by_a_full_peer_is_completed() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_cable().unwrap();
    let (_, mut source) = stream_port(&engine, segment, config());
    let (port, mut peer) = stream_port(&engine, segment, config());
    // Tokens for more than the peer's socket takes, so that it is the peer that is full first.
    engine.set_rate(port, Some(Rate { burst_bytes: 1 << 20, ..CRAWL })).unwrap();
    let mut sent = 0;
    while fates(&engine, port).1 < 20 {
        send(&engine, port, &mut source, sent..sent + 1);
        sent += 1;
    }
    for serial in 0..sent {
        assert_eq!(read_frame(&mut peer), Some(frame(2, 1, FRAME_LEN, serial)));
    }
    eventually("room wakes the port", || fates(&engine, port) == (u64::from(sent), 0, 0));
}

#[test]
fn a_port_that_is_set_down_loses_what_waits() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_cable().unwrap();
    let (_, mut source) = stream_port(&engine, segment, config());
    let (port, mut peer) = stream_port(&engine, segment, config());
    engine.set_rate(port, Some(CRAWL)).unwrap();
    send(&engine, port, &mut source, 0..10);
    assert_eq!(fates(&engine, port), (2, 8, 0));
    engine.set_up(port, false).unwrap();
    assert_eq!(fates(&engine, port), (2, 0, 8));
    assert_eq!(engine.counters(port).unwrap().tx.drops[DropReason::PortDown as usize], 8);
    // Of what waits for the peer, a frame that it has in part is completed.
    engine.set_rate(port, None).unwrap();
    engine.set_up(port, true).unwrap();
    let mut sent = 10;
    while fates(&engine, port).1 < 20 {
        send(&engine, port, &mut source, sent..sent + 1);
        sent += 1;
    }
    engine.set_up(port, false).unwrap();
    let (out, cut, _) = fates(&engine, port);
    assert!(cut <= 1);
    for serial in [0, 1].into_iter().chain(10..).take(usize::try_from(out + cut).unwrap()) {
        assert_eq!(read_frame(&mut peer), Some(frame(2, 1, FRAME_LEN, serial)));
    }
    eventually("it was completed", || fates(&engine, port) == (out + cut, 0, u64::from(sent) - out - cut));
    engine.set_up(port, true).unwrap();
    send(&engine, port, &mut source, 0..1);
    assert_eq!(read_frame(&mut peer), Some(frame(2, 1, FRAME_LEN, 0)));
}

#[test]
fn never_more_leaves_than_the_rate_allows() {
    const SLACK_MS: u64 = 20; // the engine's clock is up to one tick behind, at 100 Hz 10 ms
    let rate = Rate { bits_per_s: 4_000_000, burst_bytes: 10_000 };
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_cable().unwrap();
    let (_, mut source) = stream_port(&engine, segment, config());
    let (port, mut peer) = stream_port(&engine, segment, config());
    let begin = Instant::now();
    engine.set_rate(port, Some(rate)).unwrap();
    let writer = std::thread::spawn(move || {
        for serial in 0..150 {
            source.write_all(&wire(&[frame(2, 1, FRAME_LEN, serial)])).unwrap();
        }
        source
    });
    for serial in 0..150 {
        assert_eq!(read_frame(&mut peer), Some(frame(2, 1, FRAME_LEN, serial)));
        let counters = engine.counters(port).unwrap();
        let most_ms = u64::try_from(begin.elapsed().as_millis()).unwrap() + SLACK_MS;
        assert_balanced(&counters);
        let most = rate.burst_bytes + rate.bits_per_s * most_ms / 8_000 + FRAME_LEN as u64;
        assert!(counters.tx.bytes_out <= most, "{} bytes in {most_ms} ms", counters.tx.bytes_out);
    }
    drop(writer.join().unwrap());
}

#[test]
fn datagrams_and_channels_are_limited_too() {
    let engine = Engine::new(1, 1).unwrap();
    let fast = Rate { bits_per_s: 8_000_000, burst_bytes: 10_000 };

    let segment = engine.add_cable().unwrap();
    let (_, mut source) = stream_port(&engine, segment, config());
    let port = engine.add_port(config()).unwrap();
    engine.join(port, segment).unwrap();
    let (ours, peer) = UnixDatagram::pair().unwrap();
    engine.attach_dgram(port, ours.into(), None, None, None).unwrap();
    engine.set_rate(port, Some(CRAWL)).unwrap();
    send(&engine, port, &mut source, 0..6);
    assert_eq!(fates(&engine, port), (2, 4, 0));
    engine.set_rate(port, Some(fast)).unwrap();
    eventually("the clock lets all go", || fates(&engine, port) == (6, 0, 0));
    for serial in 0..6 {
        let mut datagram = vec![0; FRAME_LEN];
        peer.recv(&mut datagram).unwrap();
        assert_eq!(datagram, frame(2, 1, FRAME_LEN, serial));
    }

    let segment = engine.add_cable().unwrap();
    let (_, mut source) = stream_port(&engine, segment, config());
    let port = engine.add_port(config()).unwrap();
    engine.join(port, segment).unwrap();
    let program = engine.attach_channel(port).unwrap();
    engine.set_rate(port, Some(CRAWL)).unwrap();
    send(&engine, port, &mut source, 0..6);
    assert_eq!(fates(&engine, port), (2, 4, 0));
    engine.set_rate(port, Some(fast)).unwrap();
    eventually("the clock lets all go", || fates(&engine, port) == (6, 0, 0));
    let mut frames = Vec::new();
    program.receive(10, |frame| frames.push(frame.to_vec())).unwrap();
    assert_eq!(frames, (0..6).map(|serial| frame(2, 1, FRAME_LEN, serial)).collect::<Vec<_>>());
}
