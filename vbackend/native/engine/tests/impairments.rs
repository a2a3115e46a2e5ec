//! Impairments: each frame meets the fate that its seed says, at its time, and nothing is unaccounted.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::{assert_balanced, config, eventually, frame, read_frame, stream_port, wire};
use vbackend_engine::{Engine, ImpairmentCounts, PortConfig};
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::impair::{Config, Counts, Decisions, Loss, Probability};
use vbackend_proto::queue::Limits;
use vbackend_proto::segment::PortId;
use vbackend_proto::shaper::Rate;

const LEN: usize = 60;

fn percent(value: f64) -> Probability {
    Probability::new(value / 100.0).unwrap()
}

fn delay(us: u64) -> Config {
    Config { delay_us: us, ..Config::NONE }
}

/// A source and an impaired port on a cable, with room for what a test sends.
struct Lab {
    engine: Engine,
    source: UnixStream,
    port: PortId,
    peer: UnixStream,
}

impl Lab {
    fn new(workers: usize, impairment: Config) -> Lab {
        let engine = Engine::new(workers, 1).unwrap();
        let segment = engine.add_cable().unwrap();
        let roomy = PortConfig { limits: Limits { frames: 100_000, bytes: 1 << 28 }, ..config() };
        let (_, source) = stream_port(&engine, segment, roomy);
        let (port, peer) = stream_port(&engine, segment, roomy);
        engine.set_impairment(port, Some(impairment)).unwrap();
        Lab { engine, source, port, peer }
    }

    /// Send frames and wait until the port has counted them (and their duplicates).
    fn send(&mut self, serials: std::ops::Range<u32>) {
        let original = |lab: &Lab| lab.tx_in() - lab.counts().counts.duplicated;
        let expected = original(self) + u64::from(serials.end - serials.start);
        let frames: Vec<_> = serials.map(|serial| frame(2, 1, LEN, serial)).collect();
        self.source.write_all(&wire(&frames)).unwrap();
        eventually("the frames are counted", || original(self) == expected);
    }

    fn tx_in(&self) -> u64 {
        let counters = self.engine.counters(self.port).unwrap();
        assert_balanced(&counters);
        counters.tx.frames_in
    }

    fn counts(&self) -> ImpairmentCounts {
        self.engine.impairment(self.port).unwrap().unwrap_or_default()
    }

    /// Frames out, queued, dropped.
    fn fates(&self) -> (u64, u64, u64) {
        let counters = self.engine.counters(self.port).unwrap();
        assert_balanced(&counters);
        (counters.tx.frames_out, counters.tx.queued, counters.tx.total_dropped())
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.engine.counters(self.port).unwrap().tx.drops[reason as usize]
    }

    fn read(&mut self, frames: usize) -> Vec<Vec<u8>> {
        (0..frames).map(|_| read_frame(&mut self.peer).unwrap()).collect()
    }

    fn read_serials(&mut self, frames: usize) -> Vec<u32> {
        self.read(frames).iter().map(|frame| serial(frame)).collect()
    }
}

fn serial(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[frame.len() - 4..].try_into().unwrap())
}

#[test]
fn a_seed_decides_whatever_the_batches_are() {
    let all = Config {
        loss: Loss::Gilbert {
            to_bad: percent(5.0),
            to_good: percent(20.0),
            in_good: percent(1.0),
            in_bad: percent(90.0),
        },
        duplicate: percent(10.0),
        corrupt: percent(10.0),
        seed: 7,
        ..Config::NONE
    };
    let mut decisions = Decisions::new(all);
    let (mut expected, mut lost) = (Vec::new(), 0);
    for serial in 0..2000 {
        let fate = decisions.next(LEN);
        lost += u64::from(fate.lost);
        let mut sent = frame(2, 1, LEN, serial);
        if let Some(bit) = fate.corrupted {
            sent[bit as usize / 8] ^= 1 << (bit % 8);
        }
        let copies = if fate.lost { 0 } else { 1 + usize::from(fate.twice) };
        expected.extend(std::iter::repeat_n(sent, copies));
    }
    for (workers, batch) in [(1, 1), (1, 7), (1, 500), (2, 100)] {
        let mut lab = Lab::new(workers, all);
        let total = if batch == 1 { 200 } else { 2000 };
        for first in (0..total).step_by(batch) {
            lab.send(first..total.min(first + u32::try_from(batch).unwrap()));
        }
        if total == 2000 {
            assert!(lab.read(expected.len()) == expected, "{workers} workers, batches of {batch}");
            eventually("all is counted", || lab.fates() == (expected.len() as u64, 0, lost));
            assert_eq!((lab.dropped(DropReason::Loss), lab.counts().counts.lost), (lost, lost));
        } else {
            assert!(lab.read(100) == expected[..100]);
        }
        // The streams begin anew with each set.
        lab.engine.set_impairment(lab.port, Some(all)).unwrap();
        assert_eq!(lab.counts(), ImpairmentCounts::default());
    }
}

#[test]
fn nothing_is_early_and_order_is_kept() {
    for (workers, jitter_us) in [(1, 0), (1, 15_000), (2, 3_000)] {
        let mut lab = Lab::new(workers, Config { jitter_us, seed: 3, ..delay(20_000) });
        let mut sent = Vec::new();
        for serial in 0..50 {
            sent.push(Instant::now());
            lab.source.write_all(&wire(&[frame(2, 1, LEN, serial)])).unwrap();
            if serial % 10 == 9 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        for (expected, sent) in sent.iter().enumerate() {
            let frame = read_frame(&mut lab.peer).unwrap();
            assert_eq!(serial(&frame) as usize, expected);
            let least = Duration::from_micros(20_000 - jitter_us);
            assert!(sent.elapsed() >= least, "{:?}", sent.elapsed());
        }
        eventually("all is counted", || lab.fates() == (50, 0, 0));
        assert_eq!(lab.counts().counts, Counts { delayed: 50, ..Counts::default() });
    }
}

#[test]
fn what_is_on_its_way_is_queued_and_purged_with_the_session() {
    type End = (&'static str, fn(&mut Lab), DropReason);
    let ends: [End; 4] = [
        ("detach", |lab| lab.engine.detach(lab.port).unwrap(), DropReason::Removed),
        ("down", |lab| lab.engine.set_up(lab.port, false).unwrap(), DropReason::PortDown),
        ("gone", |lab| lab.peer.shutdown(std::net::Shutdown::Both).unwrap(), DropReason::PeerGone),
        (
            "taken away, then detached",
            |lab| {
                lab.engine.set_impairment(lab.port, None).unwrap();
                assert_eq!(lab.fates(), (0, 30, 0));
                lab.engine.detach(lab.port).unwrap();
            },
            DropReason::Removed,
        ),
    ];
    for (name, end, reason) in ends {
        let mut lab = Lab::new(1, delay(3_600_000_000));
        lab.send(0..30);
        assert_eq!(lab.fates(), (0, 30, 0), "{name}");
        let counts = lab.counts();
        assert_eq!((counts.held_frames, counts.held_bytes), (30, 30 * (LEN as u64 + 4)), "{name}");
        end(&mut lab);
        eventually("the frames are lost", || lab.fates() == (0, 0, 30));
        assert_eq!(lab.dropped(reason), 30, "{name}");
    }
}

#[test]
fn a_changed_impairment_leaves_times_and_order() {
    let mut lab = Lab::new(1, delay(50_000));
    let begin = Instant::now();
    lab.send(0..5);
    lab.engine.set_impairment(lab.port, Some(delay(1_000))).unwrap();
    lab.send(5..10);
    lab.engine.set_impairment(lab.port, None).unwrap();
    lab.send(10..15);
    assert_eq!(lab.engine.impairment(lab.port).unwrap(), None);
    assert_eq!(lab.read_serials(15), (0..15).collect::<Vec<_>>());
    assert!(begin.elapsed() >= Duration::from_millis(50));
    eventually("all left", || lab.fates() == (15, 0, 0));
    lab.send(15..20);
    assert_eq!((lab.read_serials(5), lab.fates()), ((15..20).collect(), (20, 0, 0)));
}

#[test]
fn reordered_frames_are_not_delayed() {
    let reorder = Config { reorder: percent(25.0), seed: 5, ..delay(300_000) };
    let mut decisions = Decisions::new(reorder);
    let (mut early, mut late) = (Vec::new(), Vec::new());
    for serial in 0..200u32 {
        if decisions.next(LEN).at_once { early.push(serial) } else { late.push(serial) }
    }
    let mut lab = Lab::new(1, reorder);
    lab.send(0..200);
    let counts = Counts { delayed: late.len() as u64, reordered: early.len() as u64, ..Counts::default() };
    assert_eq!(lab.counts().counts, counts);
    assert_eq!(lab.read_serials(200), [early, late].concat());
}

#[test]
fn jitter_overtakes_only_when_asked() {
    for (overtake, sorted) in [(false, true), (true, false)] {
        let mut lab = Lab::new(1, Config { jitter_us: 20_000, overtake, ..delay(20_000) });
        lab.send(0..100);
        let mut serials = lab.read_serials(100);
        assert_eq!(serials.is_sorted(), sorted);
        serials.sort_unstable();
        assert_eq!(serials, (0..100).collect::<Vec<_>>());
    }
}

#[test]
fn a_full_line_drops() {
    let limits = Limits { frames: 10, bytes: 1 << 20 };
    let mut lab = Lab::new(1, Config { limits, duplicate: percent(100.0), ..delay(3_600_000_000) });
    lab.send(0..8);
    assert_eq!((lab.fates(), lab.dropped(DropReason::LineFull)), ((0, 10, 6), 6));
    assert_eq!(lab.tx_in(), 16, "a duplicate enters");
}

#[test]
fn a_hundred_milliseconds_of_a_gigabit_fit() {
    // 12.5 MB in frames of a full length, with the default limits.
    let mut lab = Lab::new(1, delay(3_600_000_000));
    let batch = wire(&(0..50).map(|serial| frame(2, 1, 1500, serial)).collect::<Vec<_>>());
    for _ in 0..170 {
        lab.source.write_all(&batch).unwrap();
    }
    eventually("all are on their way", || lab.fates() == (0, 8500, 0));
    lab.engine.detach(lab.port).unwrap();
    assert_eq!(lab.counts().held_bytes, 0);
}

#[test]
fn the_rate_and_the_queue_come_behind_the_delay() {
    let mut lab = Lab::new(1, delay(30_000));
    lab.engine.set_limits(lab.port, Some(5), None).unwrap();
    lab.engine.set_rate(lab.port, Some(Rate { bits_per_s: 8, burst_bytes: LEN as u64 + 1 })).unwrap();
    lab.send(0..20);
    eventually("the queue is what the bucket does not pay", || lab.fates() == (2, 5, 13));
    assert_eq!(lab.dropped(DropReason::QueueFull), 13);
    assert_eq!(lab.read_serials(2), [0, 1]);
}

#[test]
fn many_ports_keep_their_own_times() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_switch(300_000, 1024).unwrap();
    let (_, mut source) = stream_port(&engine, segment, config());
    let mut peers = HashMap::new();
    for ms in 1..=40 {
        let (port, peer) = stream_port(&engine, segment, config());
        engine.set_impairment(port, Some(delay(ms * 1000))).unwrap();
        peers.insert(ms, peer);
    }
    for round in 0..3 {
        let begin = Instant::now();
        source.write_all(&wire(&[frame(0xff, 1, LEN, round)])).unwrap();
        for ms in 1..=40 {
            let received = read_frame(peers.get_mut(&ms).unwrap()).unwrap();
            assert_eq!(serial(&received), round);
            assert!(begin.elapsed() >= Duration::from_millis(ms));
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let lab = Lab::new(1, Config::NONE);
    let wrong = Config { jitter_us: 2, ..delay(1) };
    assert!(lab.engine.set_impairment(lab.port, Some(wrong)).is_err());
    assert!(lab.engine.set_impairment(PortId(99), None).is_err());
    assert!(lab.engine.impairment(PortId(99)).is_err());
}
