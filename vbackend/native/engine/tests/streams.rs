//! Stream ports: order, stalls, ends, and nothing unaccounted.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use common::{LIMITS, assert_balanced, config, eventually, frame, introduce, read_frame, stream_port, wire};
use vbackend_engine::command::{End, Event};
use vbackend_engine::{Engine, EngineError, PortConfig};
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::queue::Limits;

#[test]
fn frames_cross_a_switch_in_order_and_unchanged() {
    for workers in [1, 2] {
        let engine = Engine::new(workers, 1).unwrap();
        let segment = engine.add_switch(300_000, 64).unwrap();
        let (a, mut peer_a) = stream_port(&engine, segment, config());
        let (b, mut peer_b) = stream_port(&engine, segment, config());
        let (_, mut peer_c) = stream_port(&engine, segment, config());
        introduce(&engine, b, &mut peer_b, 2);
        let frames: Vec<_> = (0..100).map(|n| frame(2, 1, 14 + n as usize * 7, n)).collect();
        peer_a.write_all(&wire(&frames)).unwrap();
        for expected in &frames {
            assert_eq!(read_frame(&mut peer_b).as_ref(), Some(expected));
        }
        peer_b.write_all(&wire(&[frame(0xff, 2, 60, 7)])).unwrap();
        for peer in [&mut peer_a, &mut peer_c] {
            assert_eq!(read_frame(peer), Some(frame(0xff, 2, 60, 7)));
        }
        eventually("counters are published", || engine.counters(b).unwrap().tx.frames_out == 100);
        assert_balanced(&engine.counters(a).unwrap());
        assert_balanced(&engine.counters(b).unwrap());
    }
}

#[test]
fn an_injected_frame_comes_from_the_port_it_names() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_switch(300_000, 64).unwrap();
    let (a, mut peer_a) = stream_port(&engine, segment, config());
    let (b, mut peer_b) = stream_port(&engine, segment, config());
    engine.inject(a, &frame(0xff, 1, 60, 9)).unwrap();
    assert_eq!(read_frame(&mut peer_b), Some(frame(0xff, 1, 60, 9)));
    peer_b.write_all(&wire(&[frame(1, 2, 60, 10)])).unwrap();
    assert_eq!(read_frame(&mut peer_a), Some(frame(1, 2, 60, 10)));
    eventually("it was counted", || engine.counters(a).unwrap().rx.frames_out == 1);
    assert_balanced(&engine.counters(b).unwrap());
    for len in [0, 13, 69_633] {
        assert!(matches!(engine.inject(a, &vec![0; len]), Err(EngineError::Invalid(_))), "{len}");
    }
}

#[test]
fn what_was_learned_at_a_port_can_be_forgotten() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_switch(300_000, 64).unwrap();
    let (a, mut peer_a) = stream_port(&engine, segment, config());
    let (b, mut peer_b) = stream_port(&engine, segment, config());
    introduce(&engine, a, &mut peer_a, 1);
    introduce(&engine, b, &mut peer_b, 2);
    let learned = || engine.fdb(segment).unwrap().iter().map(|(entry, _)| entry.port).collect::<Vec<_>>();
    assert_eq!(learned(), [a, b]);
    engine.unlearn(a).unwrap();
    assert_eq!(learned(), [b]);
    engine.leave(b).unwrap();
    engine.unlearn(b).unwrap();
    engine.remove_port(a).unwrap();
    assert!(matches!(engine.unlearn(a), Err(EngineError::Unknown(_))));
}

#[test]
fn a_stalled_peer_loses_its_own_frames_only() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_switch(300_000, 64).unwrap();
    let (a, mut peer_a) = stream_port(&engine, segment, config());
    let small = PortConfig { limits: Limits { frames: 10, bytes: 1 << 20 }, ..config() };
    let (stalled, mut peer_stalled) = stream_port(&engine, segment, small);
    let (b, mut peer_b) = stream_port(&engine, segment, config());
    introduce(&engine, stalled, &mut peer_stalled, 2);
    introduce(&engine, b, &mut peer_b, 3);
    let mut sent = 0;
    while engine.counters(stalled).unwrap().tx.drops[DropReason::QueueFull as usize] < 100 {
        peer_a.write_all(&wire(&[frame(2, 1, 1500, sent), frame(3, 1, 60, sent)])).unwrap();
        assert_eq!(read_frame(&mut peer_b), Some(frame(3, 1, 60, sent)));
        sent += 1;
    }
    assert_eq!(engine.counters(stalled).unwrap().tx.queued, 10);
    assert_balanced(&engine.counters(stalled).unwrap());
    // What was not dropped arrives whole, also the frame that was cut by the full socket.
    drop(peer_a);
    eventually("the sender is gone", || engine.drain_events().len() == 1);
    let expected = u64::from(sent) - engine.counters(stalled).unwrap().tx.total_dropped();
    for serial in 0..expected {
        assert_eq!(read_frame(&mut peer_stalled), Some(frame(2, 1, 1500, u32::try_from(serial).unwrap())));
    }
    eventually("the queue is empty", || engine.counters(stalled).unwrap().tx.queued == 0);
    assert_balanced(&engine.counters(stalled).unwrap());
    assert_balanced(&engine.counters(a).unwrap());
}

#[test]
fn sessions_end_with_a_reason_and_the_port_takes_the_next_peer() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_switch(300_000, 64).unwrap();
    let (_, mut listener) = stream_port(&engine, segment, config());
    let good = wire(&[frame(0xff, 1, 60, 5)]);
    let table: [(&[u8], End); 5] = [
        (&[], End::Eof(0)),
        (&[0, 0], End::Eof(2)),
        (&[0, 0, 0, 60, 1, 2, 3], End::Eof(7)),
        (&[0, 1, 0x10, 0x01], End::Oversize(69_633)),
        (b"GET / HTTP/1.1\r\n", End::Oversize(u32::from_be_bytes(*b"GET "))),
    ];
    let port = engine.add_port(config()).unwrap();
    engine.join(port, segment).unwrap();
    for (index, (tail, expected)) in table.iter().enumerate() {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let session = engine.attach_stream(port, ours.into()).unwrap();
        assert_eq!(session, index as u64 + 1);
        theirs.write_all(&good).unwrap();
        theirs.write_all(tail).unwrap();
        if matches!(expected, End::Eof(_)) {
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
        }
        assert_eq!(read_frame(&mut listener), Some(frame(0xff, 1, 60, 5)));
        let mut events = Vec::new();
        eventually("the session ends", || {
            events.extend(engine.drain_events());
            !events.is_empty()
        });
        assert_eq!(events, [Event::SessionEnded { port, session, end: *expected }]);
        assert_eq!(theirs.read(&mut [0; 1]).unwrap_or(0), 0, "the engine closed its end");
        assert_balanced(&engine.counters(port).unwrap());
    }
}

#[test]
fn a_peer_that_stopped_reading_can_still_speak() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_cable().unwrap();
    let (deaf, mut peer_deaf) = stream_port(&engine, segment, config());
    let (_, mut peer) = stream_port(&engine, segment, config());
    peer_deaf.shutdown(std::net::Shutdown::Read).unwrap();
    for lost in 1..3 {
        peer.write_all(&wire(&[frame(1, 2, 60, 0)])).unwrap();
        eventually("the frame is lost", || {
            engine.counters(deaf).unwrap().tx.drops[DropReason::PeerGone as usize] == lost
        });
        peer_deaf.write_all(&wire(&[frame(2, 1, 60, 7)])).unwrap();
        assert_eq!(read_frame(&mut peer), Some(frame(2, 1, 60, 7)));
    }
    assert_balanced(&engine.counters(deaf).unwrap());
    drop(peer_deaf);
    eventually("the session ends", || {
        engine.drain_events() == [Event::SessionEnded { port: deaf, session: 1, end: End::Eof(0) }]
    });
}

#[test]
fn short_frames_are_counted_and_the_rest_goes_on() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_cable().unwrap();
    let (a, mut peer_a) = stream_port(&engine, segment, config());
    let (_, mut peer_b) = stream_port(&engine, segment, config());
    let good = frame(0xff, 1, 60, 1);
    peer_a.write_all(&wire(&[vec![], good.clone(), vec![0; 13], good.clone()])).unwrap();
    assert_eq!((read_frame(&mut peer_b), read_frame(&mut peer_b)), (Some(good.clone()), Some(good)));
    eventually("counters are published", || {
        let rx = engine.counters(a).unwrap().rx;
        (rx.frames_in, rx.drops[DropReason::Runt as usize]) == (4, 2)
    });
}

#[test]
fn the_largest_frame_passes_a_cable_byte_by_byte() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_cable().unwrap();
    let (_, mut peer_a) = stream_port(&engine, segment, config());
    let (_, mut peer_b) = stream_port(&engine, segment, config());
    let big = frame(0xff, 1, 69_632, 9);
    let bytes = wire(std::slice::from_ref(&big));
    let sender = std::thread::spawn(move || {
        for piece in bytes.chunks(997) {
            peer_a.write_all(piece).unwrap();
        }
        peer_a
    });
    assert_eq!(read_frame(&mut peer_b), Some(big));
    drop(sender.join().unwrap());
}

#[test]
fn down_spoofed_and_unjoined_frames_have_their_counters() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_cable().unwrap();
    let bound = PortConfig { source: Some([2, 0, 0, 0, 0, 1]), ..config() };
    let (a, mut peer_a) = stream_port(&engine, segment, bound);
    let (b, mut peer_b) = stream_port(&engine, segment, config());
    let count = |port, reason| {
        let counters = engine.counters(port).unwrap();
        assert_balanced(&counters);
        counters.rx.drops[reason as usize] + counters.tx.drops[reason as usize]
    };
    peer_a.write_all(&wire(&[frame(2, 9, 60, 1), frame(2, 1, 60, 2)])).unwrap();
    assert_eq!(read_frame(&mut peer_b), Some(frame(2, 1, 60, 2)));
    eventually("the spoofed frame is counted", || count(a, DropReason::Spoofed) == 1);
    engine.set_up(b, false).unwrap();
    peer_a.write_all(&wire(&[frame(2, 1, 60, 3)])).unwrap();
    eventually("the port is down for others", || count(b, DropReason::PortDown) == 1);
    peer_b.write_all(&wire(&[frame(1, 2, 60, 3)])).unwrap();
    eventually("the port is down for its peer", || count(b, DropReason::PortDown) == 2);
    engine.set_up(b, true).unwrap();
    engine.detach(b).unwrap();
    assert_eq!(peer_b.read(&mut [0; 1]).unwrap(), 0);
    peer_a.write_all(&wire(&[frame(2, 1, 60, 4)])).unwrap();
    eventually("nobody is there", || count(b, DropReason::NoPeer) == 1);
    engine.leave(a).unwrap();
    peer_a.write_all(&wire(&[frame(2, 1, 60, 5)])).unwrap();
    eventually("there is no segment", || count(a, DropReason::NoSegment) == 1);
}

#[test]
fn a_removed_port_is_drained_first() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_cable().unwrap();
    let (a, mut peer_a) = stream_port(&engine, segment, config());
    let (_, mut peer_b) = stream_port(&engine, segment, config());
    for serial in 0..50 {
        peer_a.write_all(&wire(&[frame(2, 1, 600, serial)])).unwrap();
    }
    engine.remove_port(a).unwrap();
    for serial in 0..50 {
        assert_eq!(read_frame(&mut peer_b), Some(frame(2, 1, 600, serial)));
    }
    assert!(matches!(engine.counters(a), Err(EngineError::Unknown(_))));
    let again = engine.add_port(config()).unwrap();
    assert_ne!(a, again, "a number is never used twice");
}

#[test]
fn wrong_calls_say_what_is_wrong() {
    let engine = Engine::new(1, 1).unwrap();
    let cable = engine.add_cable().unwrap();
    let (a, _peer_a) = stream_port(&engine, cable, config());
    let (_, _peer_b) = stream_port(&engine, cable, config());
    let c = engine.add_port(config()).unwrap();
    let socket = || std::os::unix::net::UnixStream::pair().unwrap().0.into();
    assert!(matches!(engine.join(c, cable), Err(EngineError::Invalid(_))));
    assert!(matches!(engine.join(a, cable), Err(EngineError::Invalid(_))));
    assert!(matches!(engine.join(c, 99), Err(EngineError::Unknown(_))));
    assert!(matches!(engine.attach_stream(a, socket()), Err(EngineError::Invalid(_))));
    assert!(matches!(engine.remove_segment(cable), Err(EngineError::Invalid(_))));
    assert!(matches!(
        engine.add_port(PortConfig { worker: Some(5), ..config() }),
        Err(EngineError::Invalid(_))
    ));
    assert!(matches!(Engine::new(0, 1), Err(EngineError::Invalid(_))));
    assert!(matches!(engine.add_switch(1, usize::MAX), Err(EngineError::Invalid(_))));
    assert!(matches!(engine.add_switch(1, 1 << 40), Err(EngineError::Invalid(_))));
    engine.close();
    engine.close();
    assert!(matches!(engine.add_cable(), Err(EngineError::Dead(_))));
}

/// Random traffic between six ports on two workers, peers that stall, and a reader of counters that never sees a
/// frame missing.
#[test]
fn nothing_is_unaccounted_at_any_moment() {
    const PORTS: usize = 6;
    let engine = Engine::new(2, 1).unwrap();
    let segment = engine.add_switch(300_000, 64).unwrap();
    let limits = Limits { frames: 20, ..LIMITS };
    let mut peers = Vec::new();
    for host in 1..=PORTS {
        let (port, mut peer) = stream_port(&engine, segment, PortConfig { limits, ..config() });
        introduce(&engine, port, &mut peer, u8::try_from(host).unwrap());
        peers.push((port, peer));
    }
    let ports: Vec<_> = peers.iter().map(|(port, _)| *port).collect();
    let done = AtomicBool::new(false);
    let received: HashMap<_, u64> = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut looks = 0u64;
            while !done.load(Ordering::Relaxed) || looks == 0 {
                ports.iter().for_each(|port| assert_balanced(&engine.counters(*port).unwrap()));
                looks += 1;
            }
        });
        let mut readers = Vec::new();
        let mut writers = Vec::new();
        for (index, (port, peer)) in peers.iter().enumerate() {
            let (mut reading, mut writing) = (peer.try_clone().unwrap(), peer.try_clone().unwrap());
            readers.push(scope.spawn(move || {
                let mut frames = 0;
                while read_frame(&mut reading).is_some() {
                    frames += 1;
                    if index % 3 == 0 && frames % 64 == 0 {
                        std::thread::sleep(std::time::Duration::from_millis(3)); // a slow peer
                    }
                }
                (*port, frames)
            }));
            writers.push(scope.spawn(move || {
                let mut state = index as u32 * 7 + 1;
                for serial in 0..2_000 {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let to = match state >> 28 {
                        0 => 0xff,
                        n => u8::try_from(n as usize % PORTS + 1).unwrap(),
                    };
                    let len = 14 + (state >> 8) as usize % 1500;
                    let source = u8::try_from(index + 1).unwrap();
                    writing.write_all(&wire(&[frame(to, source, len, serial)])).unwrap();
                }
            }));
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        eventually("everything is received or dropped", || {
            let all: Vec<_> = ports.iter().map(|port| engine.counters(*port).unwrap()).collect();
            all.iter().all(|counters| counters.rx.frames_in == 2_001 && counters.tx.queued == 0)
        });
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap();
        let totals: Vec<_> = ports.iter().map(|port| engine.counters(*port).unwrap()).collect();
        engine.close();
        let received: HashMap<_, u64> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        for (port, counters) in ports.iter().zip(totals) {
            assert_eq!(received[port], counters.tx.frames_out);
        }
        received
    });
    assert!(received.values().all(|frames| *frames > 0));
}
