//! Channel ports: bounded both ways, readable exactly while there is something.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};

use common::{LIMITS, assert_balanced, config, eventually, frame, read_frame, stream_port, wire};
use vbackend_engine::{ChannelEnd, Engine, PortConfig};
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::queue::Limits;

fn readable(channel: &ChannelEnd) -> bool {
    let path = format!("/proc/self/fdinfo/{}", channel.as_fd().as_raw_fd());
    let info = std::fs::read_to_string(path).unwrap();
    info.lines().any(|line| line.starts_with("eventfd-count") && line.split_whitespace().nth(1) != Some("0"))
}

fn take(channel: &ChannelEnd, most: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    channel.receive(most, |frame| frames.push(frame.to_vec())).unwrap();
    frames
}

#[test]
fn frames_go_both_ways_and_readiness_is_exact() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_cable().unwrap();
    let (_, mut stream) = stream_port(&engine, segment, config());
    let port = engine.add_port(config()).unwrap();
    engine.join(port, segment).unwrap();
    let channel = engine.attach_channel(port).unwrap();
    assert!(channel.send(&frame(2, 1, 60, 1)).unwrap());
    assert_eq!(read_frame(&mut stream), Some(frame(2, 1, 60, 1)));
    assert!(!readable(&channel));
    stream.write_all(&wire(&[frame(1, 2, 60, 2), frame(1, 2, 61, 3)])).unwrap();
    eventually("it is readable", || readable(&channel));
    assert_eq!(take(&channel, 1), [frame(1, 2, 60, 2)]);
    assert!(readable(&channel));
    assert_eq!(take(&channel, 9), [frame(1, 2, 61, 3)]);
    assert!(!readable(&channel));
    assert!(take(&channel, 9).is_empty());
    engine.remove_port(port).unwrap();
    assert!(readable(&channel), "the end is something to read");
    assert_eq!(channel.receive(1, |_| ()).unwrap_err().raw_os_error(), Some(libc::ENXIO));
    assert_eq!(channel.send(&frame(2, 1, 60, 1)).unwrap_err().raw_os_error(), Some(libc::ENXIO));
}

#[test]
fn full_queues_and_bad_lengths_are_counted() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_cable().unwrap();
    let (_, mut stream) = stream_port(&engine, segment, config());
    let port = engine.add_port(PortConfig { limits: Limits { frames: 4, ..LIMITS }, ..config() }).unwrap();
    engine.join(port, segment).unwrap();
    let channel = engine.attach_channel(port).unwrap();
    for (len, taken) in [(13, false), (14, true), (69_632, true), (69_633, false)] {
        assert_eq!(channel.send(&vec![0xff; len]).unwrap(), taken, "{len}");
    }
    stream.write_all(&wire(&(0..6).map(|serial| frame(1, 2, 60, serial)).collect::<Vec<_>>())).unwrap();
    eventually("all have arrived", || {
        let counters = engine.counters(port).unwrap();
        assert_balanced(&counters);
        counters.tx.frames_in == 6 && counters.rx.frames_in == 4
    });
    let counters = engine.counters(port).unwrap();
    assert_eq!((counters.tx.frames_out, counters.tx.drops[DropReason::QueueFull as usize]), (4, 2));
    assert_eq!((counters.rx.frames_out, counters.rx.total_dropped()), (2, 2));
    assert_eq!(take(&channel, 9).len(), 4);
}

#[test]
fn a_program_that_closes_ends_the_session() {
    let engine = Engine::new(1, 1).unwrap();
    let port = engine.add_port(config()).unwrap();
    let channel = engine.attach_channel(port).unwrap();
    channel.close();
    eventually("the session ends", || engine.drain_events().len() == 1);
    assert!(engine.attach_channel(port).is_ok());
}

#[test]
fn what_a_channel_took_is_counted_when_its_session_ends() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_cable().unwrap();
    let (_, mut stream) = stream_port(&engine, segment, config());
    let limits = Limits { frames: 1000, bytes: 1 << 26 };
    let port = engine.add_port(PortConfig { limits, ..config() }).unwrap();
    engine.join(port, segment).unwrap();
    let reader = std::thread::spawn(move || while read_frame(&mut stream).is_some() {});
    let mut sends = 0;
    for _ in 0..20 {
        let channel = engine.attach_channel(port).unwrap();
        sends += std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let big = frame(2, 1, 60_000, 0);
                (0..).take_while(|_| channel.send(&big).is_ok()).count() as u64
            });
            eventually("frames arrive", || engine.counters(port).unwrap().rx.frames_in > sends);
            engine.detach(port).unwrap();
            sender.join().unwrap()
        });
        let rx = engine.counters(port).unwrap().rx;
        assert_eq!((rx.frames_in, rx.queued), (sends, 0));
        assert_balanced(&engine.counters(port).unwrap());
    }
    engine.close();
    reader.join().unwrap();
}
