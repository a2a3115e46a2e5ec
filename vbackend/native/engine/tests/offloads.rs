//! Offloads between ports: frames of a stream merged for a tap, frames of a tap cut for a stream, and what a capture shows.
//! A datagram socket stands for the tap: one message is one frame behind its virtio-net header.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use common::{assert_balanced, config, eventually, read_frame, stream_port, wire};
use vbackend_engine::capture::{Lane, LinkType, Sink, Tap};
use vbackend_engine::{Engine, PortConfig};
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::impair::{Config, Decisions, Loss, Probability};
use vbackend_proto::segment::PortId;
use vbackend_proto::shaper::Rate;
use vbackend_proto::testing::flow::Flow;
use vbackend_proto::vnet::{GSO_NONE, GSO_UDP, VNET_HEADER_LEN, VnetHeader};

const MSS: usize = 1448;

struct Lab {
    engine: Engine,
    stream: (PortId, UnixStream),
    tap: (PortId, UnixDatagram),
}

/// A stream and a tap on a cable, each on its worker when there are two.
fn lab(workers: usize, vnet_hdr: bool) -> Lab {
    let engine = Engine::new(workers, 1).unwrap();
    let segment = engine.add_cable().unwrap();
    let stream = stream_port(&engine, segment, PortConfig { worker: Some(0), ..config() });
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let tap = engine.add_port(PortConfig { worker: Some(workers - 1), ..config() }).unwrap();
    engine.join(tap, segment).unwrap();
    engine.attach_tap(tap, ours.into(), vnet_hdr, true).unwrap();
    Lab { engine, stream, tap: (tap, theirs) }
}

impl Lab {
    /// The next frame that the host gets.
    fn at_tap(&self) -> (Vec<u8>, VnetHeader) {
        let mut message = vec![0; 70_000];
        let len = self.tap.1.recv(&mut message).unwrap();
        let vnet = VnetHeader::parse(message.first_chunk().unwrap());
        (message[VNET_HEADER_LEN..len].to_vec(), vnet)
    }

    fn host_sends(&self, frame: &[u8], vnet: VnetHeader) {
        self.tap.1.send(&[&vnet.emit(), frame].concat()).unwrap();
    }

    /// Wait until this many frames left for the stream and for the tap, or were lost, and nothing else happened.
    fn settle_accounts(&self, for_stream: u64, for_tap: u64) {
        for (port, frames) in [(self.stream.0, for_stream), (self.tap.0, for_tap)] {
            let tx = || self.engine.counters(port).unwrap().tx;
            eventually("all is accounted", || tx().frames_out + tx().total_dropped() == frames);
            assert_eq!(tx().frames_in, frames);
            assert_balanced(&self.engine.counters(port).unwrap());
        }
    }
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 + index / 256) as u8).collect()
}

#[test]
fn what_a_stream_brings_is_merged_for_the_host() {
    for workers in [1, 2] {
        let mut lab = lab(workers, true);
        let (flow, data) = (Flow::tcp(), data(30_000));
        let segments = flow.segments(&data, MSS);
        lab.stream.1.write_all(&wire(&segments)).unwrap();
        let mut got = Vec::new();
        let mut frames = 0;
        while got.len() < data.len() {
            let (frame, vnet) = lab.at_tap();
            let headers = flow.l4() + 32;
            assert!(vnet.is_plain() || (vnet.gso_size, usize::from(vnet.hdr_len)) == (MSS as u16, headers));
            got.extend_from_slice(&frame[headers..]);
            frames += 1;
        }
        assert!(got == data && frames < segments.len(), "{frames} frames");
        lab.settle_accounts(0, segments.len() as u64);
    }
}

#[test]
fn what_the_host_sends_is_cut_for_a_stream() {
    for workers in [1, 2] {
        let mut lab = lab(workers, true);
        for flow in [Flow::tcp(), Flow::tcp().over_v6(), Flow::udp()] {
            let data = data(60_000);
            let (frame, vnet) = flow.gso(&data, MSS);
            lab.host_sends(&frame, vnet);
            for segment in flow.segments(&data, MSS) {
                assert!(read_frame(&mut lab.stream.1) == Some(segment));
            }
        }
        lab.settle_accounts(3 * 42, 0);
        let rx = lab.engine.counters(lab.tap.0).unwrap().rx;
        assert_eq!((rx.frames_in, rx.frames_out), (3, 3));
    }
}

#[test]
fn a_bad_header_costs_its_frame_only() {
    let mut lab = lab(1, true);
    let (frame, vnet) = Flow::udp().gso(&data(3000), MSS);
    let extensions = Some((60, vec![0; 8]));
    let (uncut, uncut_vnet) = Flow { extensions, ..Flow::udp().over_v6() }.gso(&data(3000), MSS);
    lab.host_sends(&frame, VnetHeader { gso_size: 0, ..vnet });
    lab.host_sends(&uncut, VnetHeader { gso_type: GSO_UDP, ..uncut_vnet });
    lab.host_sends(&frame, vnet);
    for segment in Flow::udp().segments(&data(3000), MSS) {
        assert_eq!(read_frame(&mut lab.stream.1), Some(segment));
    }
    lab.settle_accounts(2 + 3, 0);
    let drops = lab.engine.counters(lab.stream.0).unwrap().tx.drops;
    assert_eq!((drops[DropReason::BadOffload as usize], drops[DropReason::Offload as usize]), (1, 1));
}

/// Linux drivers/net/tun.c, tun_get_user(): it refuses a header that is said to be longer than the frame.
#[test]
fn the_host_hears_no_longer_hint_than_the_frame() {
    let lab = lab(1, true);
    let (other, theirs) = UnixDatagram::pair().unwrap();
    lab.engine.detach(lab.stream.0).unwrap();
    lab.engine.attach_tap(lab.stream.0, other.into(), true, true).unwrap();
    let (partial, vnet) = Flow::tcp().gso(&data(100), MSS);
    let (gso, gso_vnet) = Flow::tcp().gso(&data(9000), MSS);
    for (frame, vnet) in
        [(&partial, VnetHeader { gso_type: GSO_NONE, gso_size: 0, ..vnet }), (&gso, gso_vnet)]
    {
        for (said, heard) in [(0, 0), (54, 54), (u16::MAX, u16::try_from(frame.len()).unwrap())] {
            let vnet = VnetHeader { hdr_len: said, ..vnet };
            theirs.send(&[&vnet.emit(), &frame[..]].concat()).unwrap();
            assert_eq!(lab.at_tap(), (frame.clone(), VnetHeader { hdr_len: heard, ..vnet }));
        }
    }
}

#[test]
fn a_host_without_offloads_and_a_rate_limit_get_single_frames() {
    for (vnet_hdr, rate) in [(false, None), (true, Some(Rate { bits_per_s: 1 << 33, burst_bytes: 1 << 30 }))]
    {
        let mut lab = lab(1, vnet_hdr);
        lab.engine.set_rate(lab.tap.0, rate).unwrap();
        let segments = Flow::tcp().segments(&data(10_000), MSS);
        lab.stream.1.write_all(&wire(&segments)).unwrap();
        for segment in segments {
            let mut message = [0; 2000];
            let len = lab.tap.1.recv(&mut message).unwrap();
            assert_eq!(message[if vnet_hdr { VNET_HEADER_LEN } else { 0 }..len], segment);
        }
        lab.settle_accounts(0, 7);
    }
}

#[test]
fn a_bad_line_carries_and_loses_single_frames() {
    let half = Probability::new(0.5).unwrap();
    let data = data(60_000);
    let (frame, vnet) = Flow::tcp().gso(&data, MSS);
    let segments = Flow::tcp().segments(&data, MSS);
    for (to_tap, impairment) in [
        (false, Config { loss: Loss::Independent(half), seed: 1, ..Config::NONE }),
        (true, Config { loss: Loss::Independent(half), seed: 2, ..Config::NONE }),
        (true, Config { delay_us: 2_000, corrupt: half, duplicate: half, seed: 3, ..Config::NONE }),
    ] {
        let mut decisions = Decisions::new(impairment);
        let mut expected = Vec::new();
        for segment in &segments {
            let fate = decisions.next(segment.len());
            let mut sent = segment.clone();
            if let Some(bit) = fate.corrupted {
                sent[bit as usize / 8] ^= 1 << (bit % 8);
            }
            let copies = if fate.lost { 0 } else { 1 + usize::from(fate.twice) };
            expected.extend(std::iter::repeat_n(sent, copies));
        }
        let mut lab = lab(1, true);
        let port = if to_tap { lab.tap.0 } else { lab.stream.0 };
        lab.engine.set_impairment(port, Some(impairment)).unwrap();
        if to_tap {
            lab.stream.1.write_all(&wire(&segments)).unwrap();
            expected.iter().for_each(|segment| assert!(lab.at_tap().0 == *segment));
        } else {
            lab.host_sends(&frame, vnet);
            expected
                .iter()
                .for_each(|segment| assert!(read_frame(&mut lab.stream.1).as_ref() == Some(segment)));
        }
        let tx = || lab.engine.counters(port).unwrap().tx;
        eventually("all is counted", || tx().frames_out == expected.len() as u64);
        let duplicated = lab.engine.impairment(port).unwrap().unwrap().counts.duplicated;
        assert_eq!(tx().frames_in, segments.len() as u64 + duplicated);
        assert_balanced(&lab.engine.counters(port).unwrap());
    }
}

#[test]
fn a_partial_checksum_is_complete_before_a_bit_is_flipped() {
    // A receiver that gets a partial checksum would take the flipped bit for what was meant.
    let lab = lab(1, true);
    let segment = lab.engine.add_cable().unwrap();
    let host = |worker| {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let port = lab.engine.add_port(PortConfig { worker, ..config() }).unwrap();
        lab.engine.join(port, segment).unwrap();
        lab.engine.attach_tap(port, ours.into(), true, true).unwrap();
        (port, theirs)
    };
    let ((_, from), (port, to)) = (host(None), host(None));
    let (frame, vnet) = Flow::tcp().gso(&data(100), MSS);
    let partial = VnetHeader { gso_type: GSO_NONE, gso_size: 0, ..vnet };
    for (corrupt, plain) in [(0.0, false), (1e-12, true)] {
        let corrupt = Probability::new(corrupt).unwrap();
        let impairment = Config { delay_us: 10, corrupt, ..Config::NONE };
        lab.engine.set_impairment(port, Some(impairment)).unwrap();
        from.send(&[&partial.emit(), &frame[..]].concat()).unwrap();
        let mut message = vec![0; 2000];
        let len = to.recv(&mut message).unwrap();
        assert_eq!(VnetHeader::parse(message.first_chunk().unwrap()).is_plain(), plain);
        assert_eq!(message[VNET_HEADER_LEN..len] == Flow::tcp().frame(&data(100)), plain);
    }
}

#[test]
fn a_capture_shows_frames_as_a_wire_has_them() {
    let mut lab = lab(1, true);
    let sink = Arc::new(Sink::new(1, 1 << 20, None).unwrap());
    let tap = Tap::new(Arc::clone(&sink), 0, Lane::Both, LinkType::Ethernet, 1 << 16, None).unwrap();
    lab.engine.capture_start(lab.tap.0, tap).unwrap();
    let flow = Flow::tcp();
    let segments = flow.segments(&data(20_000), MSS);
    let (frame, vnet) = flow.gso(&data(20_000), MSS);
    lab.host_sends(&frame, vnet);
    segments.iter().for_each(|_| assert!(read_frame(&mut lab.stream.1).is_some()));
    lab.stream.1.write_all(&wire(&segments)).unwrap();
    eventually("all are sent", || lab.engine.counters(lab.tap.0).unwrap().tx.frames_out >= 14);
    let mut recorded = Vec::new();
    eventually("all are recorded", || {
        recorded.extend(sink.read(usize::MAX, <[u8]>::to_vec));
        packets(&recorded).len() == 2 * segments.len()
    });
    assert!(packets(&recorded) == [segments.clone(), segments].concat());
}

/// The packets of enhanced packet blocks (pcapng §4.3).
fn packets(bytes: &[u8]) -> Vec<Vec<u8>> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        found.push(bytes[at + 28..at + 28 + word(at + 20)].to_vec());
        at += word(at + 4);
    }
    found
}
