//! Datagram ports: who may send, what a full or missing peer means.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use common::{LIMITS, assert_balanced, config, eventually, frame, read_frame, stream_port, wire};
use std::io::Write;
use vbackend_engine::{Engine, PortConfig};
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::queue::Limits;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("vbackend-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn bind(path: &PathBuf) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

#[test]
fn unix_datagrams_come_from_the_peer_only_and_bad_ones_are_counted() {
    let (engine, folder) = (Engine::new(1, 1).unwrap(), Folder::new("sender"));
    let segment = engine.add_cable().unwrap();
    let (_, mut stream) = stream_port(&engine, segment, config());
    let port = engine.add_port(config()).unwrap();
    engine.join(port, segment).unwrap();
    let (ours, peer, stranger) =
        (bind(&folder.path("ours")), bind(&folder.path("peer")), bind(&folder.path("stranger")));
    let remote = format!("unix:{}", folder.path("peer").display());
    engine.attach_dgram(port, ours.into(), Some(&remote), Some(&remote), None).unwrap();
    let to = folder.path("ours");
    stranger.send_to(&frame(2, 1, 60, 1), &to).unwrap();
    peer.send_to(&[], &to).unwrap();
    peer.send_to(&[0; 13], &to).unwrap();
    peer.send_to(&vec![0; 70_000], &to).unwrap();
    peer.send_to(&frame(2, 1, 60, 2), &to).unwrap();
    assert_eq!(read_frame(&mut stream), Some(frame(2, 1, 60, 2)));
    eventually("counters are published", || engine.counters(port).unwrap().rx.frames_in == 5);
    let counters = engine.counters(port).unwrap();
    assert_balanced(&counters);
    let dropped = |reason: DropReason| counters.rx.drops[reason as usize];
    assert_eq!(
        (dropped(DropReason::Sender), dropped(DropReason::Runt), dropped(DropReason::Oversize)),
        (1, 2, 1)
    );
    stream.write_all(&wire(&[frame(1, 2, 69_632, 3)])).unwrap();
    let mut datagram = vec![0; 80_000];
    let len = peer.recv(&mut datagram).unwrap();
    assert_eq!(datagram[..len], frame(1, 2, 69_632, 3));
}

#[test]
fn a_full_unix_peer_gets_the_queue_later_and_a_missing_one_costs_its_frames() {
    let (engine, folder) = (Engine::new(1, 1).unwrap(), Folder::new("full"));
    let segment = engine.add_cable().unwrap();
    let (_, mut stream) = stream_port(&engine, segment, config());
    let limits = Limits { frames: 100, ..LIMITS };
    let port = engine.add_port(PortConfig { limits, ..config() }).unwrap();
    engine.join(port, segment).unwrap();
    let remote = format!("unix:{}", folder.path("peer").display());
    engine.attach_dgram(port, bind(&folder.path("ours")).into(), Some(&remote), Some(&remote), None).unwrap();
    let tx = || {
        let counters = engine.counters(port).unwrap();
        assert_balanced(&counters);
        counters.tx
    };
    for round in 0..2 {
        let base = tx();
        stream.write_all(&wire(&[frame(1, 2, 60, 0), frame(1, 2, 60, 0)])).unwrap();
        eventually("nobody is there", || {
            tx().drops[DropReason::NoPeer as usize] == base.drops[DropReason::NoPeer as usize] + 2
        });
        let peer = bind(&folder.path("peer"));
        let frames: Vec<_> = (0..60).map(|serial| frame(1, 2, 60, serial)).collect();
        stream.write_all(&wire(&frames)).unwrap();
        // The kernel's limit is net.unix.max_dgram_qlen datagrams; the others wait for it to have room.
        eventually("all were offered", || tx().frames_in == base.frames_in + 62);
        assert!(tx().queued > 0, "round {round}");
        let mut datagram = [0; 100];
        for expected in &frames {
            let len = peer.recv(&mut datagram).unwrap();
            assert_eq!(&datagram[..len], expected, "round {round}");
        }
        eventually("the queue is empty", || tx().queued == 0);
        drop(peer);
        std::fs::remove_file(folder.path("peer")).unwrap();
    }
}

#[test]
fn a_pair_that_lost_its_other_end_ends_the_session() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_cable().unwrap();
    let (_, mut stream) = stream_port(&engine, segment, config());
    let port = engine.add_port(config()).unwrap();
    engine.join(port, segment).unwrap();
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    engine.attach_dgram(port, ours.into(), None, None, None).unwrap();
    theirs.send(&frame(2, 1, 60, 1)).unwrap();
    assert_eq!(read_frame(&mut stream), Some(frame(2, 1, 60, 1)));
    drop(theirs);
    stream.write_all(&wire(&[frame(1, 2, 60, 0)])).unwrap();
    eventually("the session ends", || engine.drain_events().len() == 1);
    assert_balanced(&engine.counters(port).unwrap());
}

#[test]
fn our_own_multicast_echo_is_not_received() {
    let engine = Engine::new(1, 1).unwrap();
    let segment = engine.add_cable().unwrap();
    let (_, mut stream) = stream_port(&engine, segment, config());
    let port = engine.add_port(config()).unwrap();
    engine.join(port, segment).unwrap();
    // Loopback stands for the group: what is sent comes back to the receiving socket.
    let (receiving, sending, other) = (
        UdpSocket::bind("127.0.0.1:0").unwrap(),
        UdpSocket::bind("127.0.0.1:0").unwrap(),
        UdpSocket::bind("127.0.0.1:0").unwrap(),
    );
    let group = receiving.local_addr().unwrap();
    sending.connect(group).unwrap();
    engine.attach_dgram(port, receiving.into(), None, None, Some(sending.into())).unwrap();
    stream.write_all(&wire(&[frame(1, 2, 60, 0)])).unwrap();
    eventually("it is sent", || engine.counters(port).unwrap().tx.frames_out == 1);
    other.send_to(&frame(2, 1, 60, 4), group).unwrap();
    assert_eq!(read_frame(&mut stream), Some(frame(2, 1, 60, 4)));
    eventually("counters are published", || engine.counters(port).unwrap().rx.frames_in == 1);
    assert_eq!(engine.counters(port).unwrap().rx.total_dropped(), 0);
}
