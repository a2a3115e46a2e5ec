//! vhost-user sessions: frames between rings and sockets, memory that changes or goes away, rings that lie.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use common::guest::{
    BUFFER, GUEST, Guest, LOG_ALL, MEMORY, MRG_RXBUF, NEXT, SIZE, USER, VERSION_1, WRITE, copy_of, eventfd,
};
use common::{assert_balanced, balanced, config, eventually, frame, read_frame, stream_port, wire};
use vbackend_engine::command::{End, Event};
use vbackend_engine::{Engine, Place};
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::impair::{Config, Probability};
use vbackend_proto::segment::PortId;
use vbackend_proto::shaper::Rate;
use vbackend_proto::testing::flow::Flow;
use vbackend_proto::vnet::{GSO_NONE, NEEDS_CSUM, VnetHeader};

const FEATURES: u64 = VERSION_1 | MRG_RXBUF;

/// A guest on a segment.
fn guest(engine: &Engine, segment: u64, features: u64) -> (PortId, Guest) {
    let port = engine.add_port(config()).unwrap();
    engine.join(port, segment).unwrap();
    (port, Guest::start(engine, port, features))
}

fn received(guest: &mut Guest) -> Vec<u8> {
    let mut frame = None;
    eventually("a frame arrives", || {
        frame = guest.receive();
        frame.is_some()
    });
    frame.unwrap()
}

#[test]
fn frames_of_all_lengths_cross_between_two_guests() {
    for workers in [1, 2] {
        let engine = Engine::new(workers, 1).unwrap();
        let cable = engine.add_cable().unwrap();
        let (a, mut from) = guest(&engine, cable, FEATURES);
        let (b, mut to) = guest(&engine, cable, FEATURES);
        to.give(8, 4096);
        for (serial, len) in [14, 60, 511, 512, 513, 1514, 4084].into_iter().enumerate() {
            let sent = frame(2, 1, len, u32::try_from(serial).unwrap());
            from.send(&sent);
            assert_eq!(received(&mut to), sent, "{len} bytes, {workers} workers");
        }
        eventually("all came back", || from.used(1) == 7);
        eventually("all is counted", || engine.counters(b).unwrap().tx.frames_out == 7);
        for port in [a, b] {
            assert_balanced(&engine.counters(port).unwrap());
        }
        let rings = engine.vhost_rings(a).unwrap();
        assert_eq!((rings[1].frames, rings[1].size, rings[1].running, rings[1].enabled), (7, 16, true, true));
        assert!(rings[1].kicks > 0 && rings[1].calls > 0, "{:?}", rings[1]);
    }
}

#[test]
fn a_bad_line_between_two_guests_has_whole_frames() {
    let always = Probability::new(1.0).unwrap();
    for (name, impairment) in [
        ("delay", Config { delay_us: 3_000, ..Config::NONE }),
        ("twice", Config { duplicate: always, ..Config::NONE }),
    ] {
        let engine = Engine::new(1, 1).unwrap();
        let switch = engine.add_switch(300_000, 64).unwrap();
        let (_, mut from) = guest(&engine, switch, FEATURES);
        let (bad, mut to) = guest(&engine, switch, FEATURES);
        let (_, mut other) = guest(&engine, switch, FEATURES);
        engine.set_impairment(bad, Some(impairment)).unwrap();
        to.give(14, 4096);
        other.give(8, 4096);
        // Flooded, so that the frames' bodies are wanted in two ways.
        let sent: Vec<_> = [14, 60, 511, 512, 513, 1514, 4084]
            .into_iter()
            .enumerate()
            .map(|(serial, len)| frame(0xff, 1, len, u32::try_from(serial).unwrap()))
            .collect();
        sent.iter().for_each(|frame| from.send(frame));
        let copies = if impairment.duplicate.is_never() { 1 } else { 2 };
        for frame in &sent {
            assert_eq!(&received(&mut other), frame, "{name}");
            (0..copies).for_each(|_| assert_eq!(&received(&mut to), frame, "{name}"));
        }
        eventually("all is counted", || engine.counters(bad).unwrap().tx.frames_out == copies * 7);
        assert_balanced(&engine.counters(bad).unwrap());
    }
}

#[test]
fn guests_and_sockets_reach_each_other() {
    let engine = Engine::new(1, 1).unwrap();
    let switch = engine.add_switch(300_000, 64).unwrap();
    let (_, mut guest_a) = guest(&engine, switch, FEATURES);
    let (_, mut guest_b) = guest(&engine, switch, FEATURES);
    let (_, mut socket) = stream_port(&engine, switch, config());
    guest_a.give(8, 2048);
    guest_b.give(8, 2048);
    let flooded = frame(0xff, 1, 1514, 5);
    guest_a.send(&flooded);
    assert_eq!(read_frame(&mut socket), Some(flooded.clone()));
    assert_eq!(received(&mut guest_b), flooded);
    let back = frame(1, 3, 1000, 6);
    socket.write_all(&wire(std::slice::from_ref(&back))).unwrap();
    assert_eq!(received(&mut guest_a), back);
    assert_eq!(guest_b.receive(), None);
}

#[test]
fn a_frame_spans_buffers_and_waits_for_them() {
    let engine = Engine::new(1, 1).unwrap();
    let cable = engine.add_cable().unwrap();
    let (port, mut to) = guest(&engine, cable, FEATURES);
    let (_, mut from) = guest(&engine, cable, FEATURES);
    let sent: Vec<_> = (0..4).map(|serial| frame(2, 1, 1500, serial)).collect();
    to.give(3, 600);
    sent.iter().for_each(|frame| from.send(frame));
    assert_eq!(received(&mut to), sent[0]);
    eventually("the others wait", || engine.counters(port).unwrap().tx.queued == 3);
    assert_eq!(to.receive(), None);
    to.give(8, 600);
    assert_eq!((received(&mut to), received(&mut to)), (sent[1].clone(), sent[2].clone()));
    to.give(2, 600);
    assert_eq!(received(&mut to), sent[3]);
    assert_balanced(&engine.counters(port).unwrap());
}

#[test]
fn buffers_held_for_a_frame_move_with_the_memory_and_are_not_in_the_base() {
    let engine = Engine::new(1, 1).unwrap();
    let cable = engine.add_cable().unwrap();
    let (port, mut to) = guest(&engine, cable, FEATURES);
    let (_, mut from) = guest(&engine, cable, FEATURES);
    let waits = |from: &mut Guest, to: &mut Guest, serial| {
        to.give(2, 600);
        from.send(&frame(2, 1, 1500, serial));
        eventually("it waits", || engine.counters(port).unwrap().tx.queued == 1);
    };
    waits(&mut from, &mut to, 0);
    engine.vhost_set_memory(port, &[to.region()]).unwrap();
    to.give(1, 600);
    assert_eq!(received(&mut to), frame(2, 1, 1500, 0));
    waits(&mut from, &mut to, 1);
    assert_eq!(engine.vhost_stop_ring(port, 0).unwrap(), Some(3));
    to.start_ring(&engine, port, 0, 3);
    to.give(1, 600); // the two that were held are still there
    from.send(&frame(2, 1, 1500, 2));
    assert_eq!(received(&mut to), frame(2, 1, 1500, 2));
}

#[test]
fn a_frame_that_all_buffers_of_a_ring_cannot_hold_is_dropped() {
    for descriptors in [1, 2] {
        let engine = Engine::new(1, 1).unwrap();
        let cable = engine.add_cable().unwrap();
        let (port, mut to) = guest(&engine, cable, FEATURES);
        let (_, mut from) = guest(&engine, cable, FEATURES);
        for head in (0..SIZE).step_by(descriptors) {
            to.put_descriptor(0, head, GUEST + Guest::buffer(0, head), 80, WRITE | NEXT, head + 1);
            let last = head + u16::try_from(descriptors).unwrap() - 1;
            to.put_descriptor(0, last, GUEST + Guest::buffer(0, last), 80, WRITE, 0);
            to.offer(0, head);
        }
        to.kick(0);
        from.send(&frame(2, 1, 1269, 1));
        eventually("it is dropped", || {
            engine.counters(port).unwrap().tx.drops[DropReason::Oversize as usize] == 1
        });
        from.send(&frame(2, 1, 60, 2));
        assert_eq!(received(&mut to), frame(2, 1, 60, 2));
        assert_balanced(&engine.counters(port).unwrap());
    }
}

#[test]
fn frames_for_a_ring_full_of_tiny_buffers_are_dropped_until_one_fits() {
    let engine = Engine::new(1, 1).unwrap();
    let cable = engine.add_cable().unwrap();
    let (port, mut to) = guest(&engine, cable, FEATURES);
    let (_, mut from) = guest(&engine, cable, FEATURES);
    to.give(SIZE, 13); // 208 bytes
    for round in 0..4 {
        for len in [197, 1500, 65, 1500, 60] {
            from.send(&frame(2, 1, len, round)); // 65: six buffers; behind it the others have to wait
        }
        assert_eq!(received(&mut to), frame(2, 1, 65, round));
        eventually("frames wait", || engine.counters(port).unwrap().tx.queued == 2);
        to.give(6, 13);
        assert_eq!(received(&mut to), frame(2, 1, 60, round));
        to.give(6, 13);
        eventually("all came back", || from.used(1) == 5 * u16::try_from(round + 1).unwrap());
    }
    let tx = engine.counters(port).unwrap().tx;
    assert_eq!((tx.frames_out, tx.drops[DropReason::Oversize as usize], balanced(&tx)), (8, 12, true));
}

#[test]
fn without_merging_a_frame_that_does_not_fit_is_dropped() {
    let engine = Engine::new(1, 1).unwrap();
    let cable = engine.add_cable().unwrap();
    let (port, mut to) = guest(&engine, cable, VERSION_1);
    let (_, mut from) = guest(&engine, cable, FEATURES);
    to.give(4, 600);
    from.send(&frame(2, 1, 589, 1));
    from.send(&frame(2, 1, 588, 2));
    assert_eq!(received(&mut to), frame(2, 1, 588, 2));
    assert_eq!(engine.counters(port).unwrap().tx.drops[DropReason::Oversize as usize], 1);
}

#[test]
fn a_polled_ring_needs_no_kicks_and_an_idle_one_asks_for_them() {
    const FOR_EVER_US: u64 = 60_000_000;
    let engine = Engine::new(1, 1).unwrap();
    let cable = engine.add_cable().unwrap();
    let port = engine.add_port(config()).unwrap();
    engine.join(port, cable).unwrap();
    let mut from = Guest::start_polled(&engine, port, FEATURES, FOR_EVER_US);
    let (_, mut to) = guest(&engine, cable, FEATURES);
    to.give(8, 2048);
    from.send(&frame(2, 1, 60, 0));
    assert_eq!(received(&mut to), frame(2, 1, 60, 0));
    assert!(!from.is_kick_wanted(1));
    let kicks = engine.vhost_rings(port).unwrap()[1].kicks;
    from.offer_frame(&frame(2, 1, 700, 1));
    assert_eq!(received(&mut to), frame(2, 1, 700, 1));
    assert_eq!(engine.vhost_rings(port).unwrap()[1].kicks, kicks);

    to.send(&frame(1, 2, 60, 2));
    from.give(1, 2048);
    assert_eq!(received(&mut from), frame(1, 2, 60, 2));
    eventually("the ring that is not polled waits", || to.is_kick_wanted(1));
    assert!(!to.is_kick_wanted(0), "buffers are not waited for");
}

#[test]
fn a_ring_that_lies_is_stopped_until_it_is_started_anew() {
    let engine = Engine::new(1, 1).unwrap();
    let cable = engine.add_cable().unwrap();
    let (port, mut liar) = guest(&engine, cable, FEATURES);
    let (_, mut other) = guest(&engine, cable, FEATURES);
    other.give(8, 2048);
    liar.put_descriptor(1, 0, GUEST + MEMORY - 10, 100, 0, 0);
    liar.offer(1, 0);
    liar.kick(1);
    let mut events = Vec::new();
    eventually("the end of the ring is told", || {
        events.extend(engine.drain_events());
        !events.is_empty()
    });
    assert!(matches!(events[..], [Event::RingStopped { ring: 1, session: 1, .. }]), "{events:?}");
    let mut told = [0; 8];
    (&liar.errs[1]).read_exact(&mut told).unwrap();
    assert!(!engine.vhost_rings(port).unwrap()[1].running);

    other.send(&frame(1, 2, 60, 3)); // the session goes on
    liar.give(1, 2048);
    assert_eq!(received(&mut liar), frame(1, 2, 60, 3));

    let mut fresh = liar.start_over();
    fresh.start_ring(&engine, port, 1, 0);
    fresh.send(&frame(2, 1, 700, 4));
    assert_eq!(received(&mut other), frame(2, 1, 700, 4));
}

/// Frames in front of a lie were forwarded, so they may not be found again.
#[test]
fn what_a_ring_gave_in_front_of_a_lie_comes_back() {
    let engine = Engine::new(1, 1).unwrap();
    let cable = engine.add_cable().unwrap();
    let (port, mut liar) = guest(&engine, cable, FEATURES);
    let (_, mut other) = guest(&engine, cable, FEATURES);
    other.give(8, 2048);
    for serial in 0..2 {
        liar.offer_frame(&frame(2, 1, 700, serial));
    }
    liar.put_descriptor(1, 8, GUEST + MEMORY - 10, 100, 0, 0);
    liar.offer(1, 8);
    liar.kick(1);
    for serial in 0..2 {
        assert_eq!(received(&mut other), frame(2, 1, 700, serial));
    }
    eventually("the ring is stopped", || !engine.vhost_rings(port).unwrap()[1].running);
    assert_eq!(liar.used(1), 2);
    assert_balanced(&engine.counters(port).unwrap());

    assert_eq!(engine.vhost_stop_ring(port, 1).unwrap(), Some(2), "where it stood");
    assert_eq!(engine.vhost_stop_ring(port, 1).unwrap(), None);
    liar.put_descriptor(1, 8, GUEST + Guest::buffer(1, 0), 12 + 700, 0, 0);
    liar.start_ring(&engine, port, 1, 2);
    received(&mut other);
    assert_eq!(other.receive(), None, "no frame twice");
}

#[test]
fn frames_that_wait_follow_their_flow_to_another_pair() {
    let engine = Engine::new(1, 1).unwrap();
    let cable = engine.add_cable().unwrap();
    let (port, mut to) = guest(&engine, cable, FEATURES);
    let (_, mut from) = guest(&engine, cable, FEATURES);
    let kicks = to.start_pair(&engine, port);
    from.give(1, 2048);
    to.offer_buffers(2, 8, 2048);
    from.send(&frame(2, 1, 700, 0));
    eventually("it waits for the first pair", || engine.counters(port).unwrap().tx.queued == 1);
    to.offer_frame_on(3, &VnetHeader::PLAIN, &frame(1, 2, 60, 1));
    (&kicks[1]).write_all(&1u64.to_ne_bytes()).unwrap();
    eventually("it went", || engine.counters(port).unwrap().tx.queued == 0);
    assert_eq!((to.used(0), to.used(2)), (0, 1));
}

/// A rate limit keeps them while the rings are stopped.
#[test]
fn frames_that_waited_for_a_driver_are_not_given_to_one_that_takes_less() {
    const GUEST_CSUM: u64 = 1 << 1;
    let engine = Engine::new(1, 1).unwrap();
    let cable = engine.add_cable().unwrap();
    let (port, mut to) = guest(&engine, cable, FEATURES | GUEST_CSUM);
    let (_, mut from) = guest(&engine, cable, FEATURES);
    engine.set_rate(port, Some(Rate { bits_per_s: 8, burst_bytes: 100 })).unwrap();
    to.give(8, 2048);
    let (partial, vnet) = Flow::udp().gso(&[5; 500], 1000);
    let vnet = VnetHeader { gso_type: GSO_NONE, gso_size: 0, ..vnet };
    for _ in 0..2 {
        from.send_with(&vnet, &partial);
    }
    from.send(&frame(2, 1, 60, 0));
    let header = |to: &mut Guest| {
        let mut bytes = None;
        eventually("a frame arrives", || {
            bytes = to.take_buffer();
            bytes.is_some()
        });
        (bytes.as_ref().unwrap()[0], bytes.unwrap().len())
    };
    assert_eq!(header(&mut to), (NEEDS_CSUM, 12 + partial.len()));
    eventually("the others wait", || engine.counters(port).unwrap().tx.queued == 2);
    for ring in [0, 1] {
        engine.vhost_stop_ring(port, ring).unwrap();
    }
    engine.vhost_features(port, FEATURES).unwrap();
    for ring in [0, 1] {
        to.start_ring(&engine, port, ring, 0);
    }
    engine.set_rate(port, None).unwrap();
    assert_eq!(header(&mut to), (0, 12 + 60));
    let tx = engine.counters(port).unwrap().tx;
    assert_eq!((tx.drops[DropReason::Offload as usize], balanced(&tx)), (1, true));
}

#[test]
fn a_ring_stops_where_it_is_and_goes_on_there() {
    let engine = Engine::new(1, 1).unwrap();
    let cable = engine.add_cable().unwrap();
    let (port, mut from) = guest(&engine, cable, FEATURES);
    let (_, mut to) = guest(&engine, cable, FEATURES);
    to.give(8, 2048);
    from.send(&frame(2, 1, 60, 0));
    assert_eq!(received(&mut to), frame(2, 1, 60, 0));
    eventually("it came back", || from.used(1) == 1);
    assert_eq!(engine.vhost_stop_ring(port, 1).unwrap(), Some(1));
    assert_eq!(engine.vhost_stop_ring(port, 1).unwrap(), None);
    from.send(&frame(2, 1, 61, 1));
    engine.vhost_enable_ring(port, 1, false).unwrap();
    from.start_ring(&engine, port, 1, 1);
    assert_eq!(engine.vhost_stop_ring(port, 1).unwrap(), Some(1), "disabled: nothing was taken");
    from.start_ring(&engine, port, 1, 1);
    engine.vhost_enable_ring(port, 1, true).unwrap();
    assert_eq!(received(&mut to), frame(2, 1, 61, 1));
}

#[test]
fn memory_is_swapped_under_running_rings_and_a_truncated_file_ends_the_session() {
    let engine = Engine::new(1, 1).unwrap();
    let cable = engine.add_cable().unwrap();
    let (port, mut from) = guest(&engine, cable, FEATURES);
    let (_, mut to) = guest(&engine, cable, FEATURES);
    to.give(8, 2048);
    engine.vhost_set_memory(port, &[from.region()]).unwrap();
    from.send(&frame(2, 1, 1500, 0));
    assert_eq!(received(&mut to), frame(2, 1, 1500, 0));

    for (refused, text) in [
        (engine.vhost_set_memory(port, &[from.region(), from.region()]), "overlaps"),
        (engine.vhost_remove_memory(port, Place { guest: 1, size: 2, user: 3 }), "no region"),
    ] {
        assert!(format!("{refused:?}").contains(text), "{refused:?}");
    }

    from.file.set_len(0x2000).unwrap(); // the rings are left, the buffers are not
    from.kick(1);
    from.file.write_all_at(&2u16.to_le_bytes(), 0x1402).unwrap();
    let mut events = Vec::new();
    eventually("the session ends", || {
        from.kick(1);
        events.extend(engine.drain_events());
        !events.is_empty()
    });
    assert_eq!(events, [Event::SessionEnded { port, session: 1, end: End::Memory }]);
    assert_balanced(&engine.counters(port).unwrap());
    let port = engine.add_port(config()).unwrap();
    Guest::start(&engine, port, FEATURES);
}

#[test]
fn memory_that_is_taken_away_stops_the_rings_in_it() {
    let engine = Engine::new(1, 1).unwrap();
    let cable = engine.add_cable().unwrap();
    let (port, _guest) = guest(&engine, cable, FEATURES);
    engine.vhost_remove_memory(port, Place { guest: GUEST, size: MEMORY, user: USER }).unwrap();
    let mut stopped = 0;
    eventually("both rings are stopped", || {
        stopped += engine.drain_events().len();
        stopped == 2
    });
}

/// Where the driver reads what the device wants to be told of.
#[test]
fn the_dirty_log_has_what_is_written_beside_buffers() {
    const RING_PACKED: u64 = 1 << 34;
    for packed in [0, RING_PACKED] {
        let engine = Engine::new(1, 1).unwrap();
        let cable = engine.add_cable().unwrap();
        let (port, to) = guest(&engine, cable, FEATURES | LOG_ALL | packed);
        let (_, mut from) = guest(&engine, cable, FEATURES);
        let log = Guest::memory_file(GUEST / 4096 / 8 + MEMORY / 4096 / 8);
        engine.vhost_set_log(port, log.metadata().unwrap().len(), 0, Some(&copy_of(&log))).unwrap();
        let page = |at: u64| (GUEST + at) / 4096;
        let dirty = |what: &str| {
            let mut bits = vec![0; usize::try_from(log.metadata().unwrap().len()).unwrap()];
            log.read_exact_at(&mut bits, 0).unwrap();
            log.write_all_at(&vec![0; bits.len()], 0).unwrap();
            let dirty = (0..bits.len() as u64 * 8)
                .filter(|page| bits[usize::try_from(page / 8).unwrap()] & (1 << (page % 8)) != 0);
            (what.to_owned(), dirty.collect::<Vec<_>>())
        };
        dirty("before");
        from.send(&frame(2, 1, 60, 0));
        eventually("it waits", || engine.counters(port).unwrap().tx.queued == 1);
        let pages = dirty("kicks are wanted for buffers");
        assert_eq!(pages.1, [page(0)], "{}", pages.0);
        engine.vhost_enable_ring(port, 0, false).unwrap(); // the frame is dropped, and the next one finds no ring
        engine.vhost_enable_ring(port, 0, true).unwrap();
        dirty("again");
        from.send(&frame(2, 1, 60, 1));
        eventually("it waits", || engine.counters(port).unwrap().tx.queued == 1);
        dirty("again");
        for ring in [0, 1] {
            engine.vhost_stop_ring(port, ring).unwrap();
            let pages = dirty("stopped in order");
            let expected = if packed == 0 { vec![] } else { vec![page(0x1000 * ring as u64)] };
            assert_eq!(pages.1, expected, "{}, ring {ring}", pages.0);
        }
        drop(to);
    }
}

#[test]
fn the_dirty_log_has_the_pages_that_were_written() {
    let engine = Engine::new(1, 1).unwrap();
    let cable = engine.add_cable().unwrap();
    let (port, mut to) = guest(&engine, cable, FEATURES | LOG_ALL);
    let (_, mut from) = guest(&engine, cable, FEATURES);
    let (log, told) = (Guest::memory_file(GUEST / 4096 / 8 + MEMORY / 4096 / 8), eventfd());
    engine.vhost_set_log_call(port, Some(copy_of(&told))).unwrap();
    engine.vhost_set_log(port, log.metadata().unwrap().len(), 0, Some(&copy_of(&log))).unwrap();
    to.give(4, u32::try_from(BUFFER).unwrap());
    from.send(&frame(2, 1, 1500, 0));
    received(&mut to);
    let mut bits = vec![0; usize::try_from(log.metadata().unwrap().len()).unwrap()];
    let mut dirty: Vec<u64> = Vec::new();
    eventually("the log is written", || {
        log.read_exact_at(&mut bits, 0).unwrap();
        dirty = (0..bits.len() as u64 * 8)
            .filter(|page| bits[usize::try_from(page / 8).unwrap()] & (1 << (page % 8)) != 0)
            .collect();
        !dirty.is_empty()
    });
    let page = |at: u64| (GUEST + at) / 4096;
    assert_eq!(dirty, [page(0), page(Guest::buffer(0, 0))], "the receive ring's page and one buffer");

    // Who waits for news of the log hears of bits that were not set, once.
    let mut count = [0; 8];
    eventually("the change is told", || (&told).read(&mut count).is_ok());
    assert_eq!(u64::from_ne_bytes(count), 1);
    for serial in 1..20 {
        from.send(&frame(2, 1, 60, serial));
        received(&mut to);
        engine.vhost_set_err(port, 0, None).unwrap(); // carried out behind the turn
        assert_eq!((&told).read(&mut count).is_ok(), serial < u32::from(SIZE), "frame {serial}");
        to.give(1, u32::try_from(BUFFER).unwrap());
    }
}
