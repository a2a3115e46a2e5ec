//! Captures of ports: what is recorded on the way in and out, with which fate, and nothing when they are over.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;

use common::{LIMITS, assert_balanced, config, eventually, frame, read_frame, stream_port, wire};
use vbackend_engine::capture::{Lane, LinkType, Sink, Tap};
use vbackend_engine::{Engine, PortConfig};
use vbackend_proto::impair::{Config, Decisions, Loss, Probability};
use vbackend_proto::queue::Limits;
use vbackend_proto::segment::PortId;

/// A record of a sink: interface, direction, original length, what its comment says.
type Seen = (u32, u32, usize, String);

fn sink(interfaces: usize) -> Arc<Sink> {
    Arc::new(Sink::new(interfaces, 1 << 20, None).unwrap())
}

fn start(engine: &Engine, port: PortId, sink: &Arc<Sink>, interface: u32) {
    start_lane(engine, port, sink, interface, Lane::Both);
}

fn start_lane(engine: &Engine, port: PortId, sink: &Arc<Sink>, interface: u32, lane: Lane) {
    let tap = Tap::new(Arc::clone(sink), interface, lane, LinkType::Ethernet, 1 << 16, None).unwrap();
    engine.capture_start(port, tap).unwrap();
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Everything that was recorded, with whole comments.
fn told(sink: &Sink) -> Vec<Seen> {
    let bytes = sink.read(usize::MAX, <[u8]>::to_vec);
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let block = &bytes[at..at + word(&bytes, at + 4) as usize];
        let mut options = &block[28 + (word(block, 20) as usize).next_multiple_of(4)..];
        let (mut way, mut comment) = (0, String::new());
        while word(options, 0) != 0 {
            let (code, len) = (word(options, 0) & 0xffff, (word(options, 0) >> 16) as usize);
            match code {
                1 => comment = String::from_utf8(options[4..4 + len].to_vec()).unwrap(),
                2 => way = word(options, 4),
                _ => panic!("option {code}"),
            }
            options = &options[4 + len.next_multiple_of(4)..];
        }
        found.push((word(block, 8), way, word(block, 24) as usize, comment));
        at += block.len();
    }
    found
}

/// The same with drop reasons instead of comments.
fn seen(sink: &Sink) -> Vec<Seen> {
    let reason = |comment: String| comment.strip_prefix("dropped: ").unwrap_or_default().to_owned();
    told(sink).into_iter().map(|(port, way, len, comment)| (port, way, len, reason(comment))).collect()
}

fn said(rows: &[(u32, u32, usize, &str)]) -> Vec<Seen> {
    rows.iter().map(|(port, way, len, reason)| (*port, *way, *len, (*reason).to_owned())).collect()
}

fn send(engine: &Engine, port: PortId, peer: &mut UnixStream, frames: &[Vec<u8>]) {
    let before = engine.counters(port).unwrap().rx.frames_in;
    peer.write_all(&wire(frames)).unwrap();
    let all = before + frames.len() as u64;
    eventually("they are received", || engine.counters(port).unwrap().rx.frames_in == all);
}

#[test]
fn both_sides_are_recorded_until_the_capture_ends() {
    for workers in [1, 2] {
        let engine = Engine::new(workers, 1).unwrap();
        let segment = engine.add_switch(1000, 10).unwrap();
        let (a, mut peer_a) = stream_port(&engine, segment, config());
        let (b, mut peer_b) = stream_port(&engine, segment, config());
        let sink = sink(2);
        start(&engine, a, &sink, 0);
        start(&engine, b, &sink, 1);
        send(&engine, a, &mut peer_a, &[frame(0xff, 1, 60, 1), frame(0xff, 1, 61, 2)]);
        (0..2).for_each(|_| assert!(read_frame(&mut peer_b).is_some()));
        eventually("both are passed on", || engine.counters(a).unwrap().rx.frames_out == 2);
        eventually("both are sent", || engine.counters(b).unwrap().tx.frames_out == 2);
        let rows = [(0, 1, 60, ""), (0, 1, 61, ""), (1, 2, 60, ""), (1, 2, 61, "")];
        let mut found = seen(&sink);
        found.sort(); // workers do not wait for each other
        assert_eq!(found, said(&rows), "{workers} workers");
        engine.capture_stop(a, &sink).unwrap();
        engine.remove_port(b).unwrap();
        assert!(engine.capture_stop(b, &sink).is_err());
        send(&engine, a, &mut peer_a, &[frame(0xff, 1, 62, 3)]);
        assert_eq!(seen(&sink), []);
        assert_eq!(Arc::strong_count(&sink), 1, "nobody holds it any more");
    }
}

#[test]
fn frames_that_may_not_enter_are_recorded_too() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_switch(1000, 10).unwrap();
    let source = Some([2, 0, 0, 0, 0, 1]);
    let (a, mut peer) = stream_port(&engine, segment, PortConfig { source, ..config() });
    let sink = sink(1);
    start(&engine, a, &sink, 0);
    send(&engine, a, &mut peer, &[frame(0xff, 9, 60, 1), frame(0xff, 1, 61, 2), frame(0xff, 9, 62, 3)]);
    assert_eq!(
        seen(&sink),
        said(&[(0, 1, 60, "spoofed"), (0, 1, 62, "spoofed"), (0, 1, 61, "no-destination")])
    );
    engine.set_up(a, false).unwrap();
    send(&engine, a, &mut peer, &[frame(0xff, 1, 63, 4)]);
    assert_eq!(seen(&sink), said(&[(0, 1, 63, "port-down")]));
    engine.set_up(a, true).unwrap();
    engine.leave(a).unwrap();
    send(&engine, a, &mut peer, &[frame(0xff, 1, 64, 5)]);
    assert_eq!(seen(&sink), said(&[(0, 1, 64, "no-segment")]));
}

#[test]
fn a_channel_that_is_full_says_so_frame_by_frame() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_switch(1000, 10).unwrap();
    let (a, mut peer) = stream_port(&engine, segment, config());
    let port = engine.add_port(PortConfig { limits: Limits { frames: 2, ..LIMITS }, ..config() }).unwrap();
    engine.join(port, segment).unwrap();
    let _channel = engine.attach_channel(port).unwrap();
    let sink = sink(1);
    start(&engine, port, &sink, 0);
    let frames: Vec<_> = (0..4).map(|serial| frame(0xff, 1, 60 + serial as usize, serial)).collect();
    send(&engine, a, &mut peer, &frames);
    let full = "queue-full";
    let rows = [(0, 2, 60, ""), (0, 2, 61, ""), (0, 2, 62, full), (0, 2, 63, full)];
    assert_eq!(seen(&sink), said(&rows));
    assert_balanced(&engine.counters(port).unwrap());
}

#[test]
fn a_stream_whose_peer_left_says_so() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_switch(1000, 10).unwrap();
    let (a, mut peer) = stream_port(&engine, segment, config());
    let (b, peer_b) = stream_port(&engine, segment, config());
    let sink = sink(1);
    start(&engine, b, &sink, 0);
    peer_b.shutdown(std::net::Shutdown::Read).unwrap();
    send(&engine, a, &mut peer, &[frame(0xff, 1, 60, 1)]);
    assert_eq!(seen(&sink), said(&[(0, 2, 60, "peer-gone")]));
}

#[test]
fn a_datagram_that_nobody_takes_says_so() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_switch(1000, 10).unwrap();
    let (a, mut peer) = stream_port(&engine, segment, config());
    let port = engine.add_port(config()).unwrap();
    engine.join(port, segment).unwrap();
    let socket = UnixDatagram::unbound().unwrap();
    engine.attach_dgram(port, socket.into(), Some("unix:/nonexistent/peer"), None, None).unwrap();
    let sink = sink(1);
    start(&engine, port, &sink, 0);
    send(&engine, a, &mut peer, &[frame(0xff, 1, 60, 1), frame(0xff, 1, 61, 2)]);
    assert_eq!(seen(&sink), said(&[(0, 2, 60, "no-peer"), (0, 2, 61, "no-peer")]));
}

#[test]
fn a_cable_is_captured_once_for_each_direction() {
    for workers in [1, 2] {
        let engine = Engine::new(workers, 1).unwrap();
        let segment = engine.add_cable().unwrap();
        let source = Some([2, 0, 0, 0, 0, 1]);
        let (a, mut peer_a) = stream_port(&engine, segment, PortConfig { source, ..config() });
        let (b, mut peer_b) = stream_port(&engine, segment, config());
        let sink = sink(2);
        for (interface, from, to) in [(0, a, b), (1, b, a)] {
            start_lane(&engine, from, &sink, interface, Lane::RxLost);
            start_lane(&engine, to, &sink, interface, Lane::Tx);
        }
        send(&engine, a, &mut peer_a, &[frame(2, 1, 60, 1), frame(2, 9, 61, 2)]);
        assert!(read_frame(&mut peer_b).is_some());
        send(&engine, b, &mut peer_b, &[frame(1, 2, 62, 3)]);
        assert!(read_frame(&mut peer_a).is_some());
        eventually("all is accounted", || engine.counters(a).unwrap().tx.frames_out == 1);
        engine.set_up(b, false).unwrap();
        send(&engine, a, &mut peer_a, &[frame(2, 1, 63, 4)]);
        eventually("it is lost", || engine.counters(b).unwrap().tx.total_dropped() == 1);
        send(&engine, b, &mut peer_b, &[frame(1, 2, 64, 5)]);
        let mut found = seen(&sink);
        found.sort_by_key(|(_, _, len, _)| *len); // the fate of 61 is known before 60 is at its port
        let rows = [
            (0, 0, 60, ""),
            (0, 0, 61, "spoofed"),
            (1, 0, 62, ""),
            (0, 0, 63, "port-down"),
            (1, 0, 64, "port-down"),
        ];
        assert_eq!(found, said(&rows), "{workers} workers");
    }
}

#[test]
fn what_an_impaired_link_did_is_told() {
    let often = Probability::new(0.3).unwrap();
    let dice =
        Config { loss: Loss::Independent(often), duplicate: often, corrupt: often, seed: 7, ..Config::NONE };
    for delay_us in [0, 1500] {
        let impairment = Config { delay_us, ..dice };
        let engine = Engine::new(1, 1).unwrap();
        let segment = engine.add_cable().unwrap();
        let (a, mut peer) = stream_port(&engine, segment, config());
        let (b, _peer_b) = stream_port(&engine, segment, config());
        engine.set_impairment(b, Some(impairment)).unwrap();
        let sink = sink(1);
        start_lane(&engine, b, &sink, 0, Lane::Tx);
        let sizes = 60..160;
        let frames: Vec<_> = sizes.clone().map(|len| frame(2, 1, len, 0)).collect();
        send(&engine, a, &mut peer, &frames);
        eventually("all have left", || {
            let tx = engine.counters(b).unwrap().tx;
            tx.frames_in >= 100 && tx.frames_in == tx.frames_out + tx.total_dropped()
        });
        let mut decisions = Decisions::new(impairment);
        let mut expected = Vec::new();
        for len in sizes {
            let fate = decisions.next(len);
            let bit = fate.corrupted.map(|bit| format!("corrupted bit {bit}"));
            if fate.lost {
                expected.push((len, "lost: impairment loss, seed 7".to_owned()));
                continue;
            }
            expected.push((len, bit.clone().unwrap_or_default()));
            if fate.twice {
                let parts = [Some("duplicate".to_owned()), bit];
                expected.push((len, parts.into_iter().flatten().collect::<Vec<_>>().join(", ")));
            }
        }
        let mut found = Vec::new();
        for (_, _, len, comment) in told(&sink) {
            let (before, delayed) = comment.split_once("delayed ").unwrap_or((&comment, ""));
            if delay_us > 0 && !before.starts_with("lost") {
                let ms: f64 = delayed.strip_suffix(" ms").unwrap().parse().unwrap();
                assert!(ms >= 1.5, "{comment}");
            } else {
                assert_eq!(delayed, "");
            }
            found.push((len, before.trim_end_matches(", ").to_owned()));
        }
        found.sort_by_key(|(len, _)| *len); // stable: what is lost is told at once, what is late when it leaves
        assert_eq!(found, expected, "{delay_us}");
        assert_eq!(sink.counts()[0].seen, engine.counters(b).unwrap().tx.frames_in);
    }
}

#[test]
fn captures_come_and_go_under_load() {
    let engine = Engine::new(2, 1).unwrap();
    let segment = engine.add_cable().unwrap();
    let (a, mut peer_a) = stream_port(&engine, segment, config());
    let (b, mut peer_b) = stream_port(&engine, segment, config());
    let sender = std::thread::spawn(move || {
        for serial in 0..20_000 {
            peer_a.write_all(&wire(&[frame(2, 1, 60, serial)])).unwrap();
        }
        peer_a
    });
    let receiver = std::thread::spawn(move || (0..20_000).filter_map(|_| read_frame(&mut peer_b)).count());
    let mut recorded = 0;
    while !receiver.is_finished() {
        let sink = Arc::new(Sink::new(2, 10_000, None).unwrap());
        start(&engine, a, &sink, 0);
        start(&engine, b, &sink, 1);
        engine.capture_stop(a, &sink).unwrap();
        engine.capture_stop(b, &sink).unwrap();
        let rows = seen(&sink).len() as u64;
        assert_eq!(sink.counts().iter().map(|one| one.captured).sum::<u64>(), rows);
        recorded += rows;
        let lanes = engine.counters(a).unwrap();
        if lanes.rx.total_dropped() + engine.counters(b).unwrap().tx.total_dropped() > 0 {
            break; // the sender was faster than the queues are long
        }
    }
    let counters = [engine.counters(a).unwrap(), engine.counters(b).unwrap()];
    counters.iter().for_each(assert_balanced);
    drop(sender.join().unwrap());
    engine.close();
    assert!(receiver.join().unwrap() <= 20_000 && recorded < 80_000);
}
