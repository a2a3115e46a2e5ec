//! Nothing to do costs nothing, whatever state the peers are in. One test, so that the process' CPU time is the
//! worker's.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use common::guest::{Guest, MRG_RXBUF, VERSION_1};
use common::{assert_balanced, config, eventually, frame, stream_port, wire};
use vbackend_engine::Engine;
use vbackend_proto::drop_reason::DropReason;
use vbackend_proto::segment::PortId;
use vbackend_proto::shaper::Rate;

/// CPU time of this process so far, in clock ticks (10 ms).
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1;
    fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

fn assert_idle(state: &str) {
    let before = ticks();
    std::thread::sleep(Duration::from_millis(400));
    let used = ticks() - before;
    assert!(used <= 8, "{state}: {used} of 40 ticks were used");
}

/// Send frames of `len` bytes to `port` until some of them wait there.
fn stall(engine: &Engine, port: PortId, source: &mut UnixStream, len: usize) {
    eventually("frames wait", || {
        source.write_all(&wire(&[frame(1, 2, len, 0)])).unwrap();
        engine.counters(port).unwrap().tx.queued > 0
    });
}

#[test]
fn no_state_of_a_peer_keeps_a_worker_busy() {
    let engine = Engine::new(1, 1).unwrap();
    let cable = || engine.add_cable().unwrap();
    assert_idle("no port");

    let segment = cable();
    let (_, mut source) = stream_port(&engine, segment, config());
    let (port, stalled) = stream_port(&engine, segment, config());
    stall(&engine, port, &mut source, 1500);
    assert_idle("a stream peer that does not read");
    stalled.shutdown(Shutdown::Read).unwrap();
    assert_idle("a stream peer that will never read");
    stalled.shutdown(Shutdown::Write).unwrap();
    assert_idle("a stream peer that closed");
    assert_balanced(&engine.counters(port).unwrap());

    let segment = cable();
    let (_, mut source) = stream_port(&engine, segment, config());
    let (port, _peer) = stream_port(&engine, segment, config());
    engine.set_rate(port, Some(Rate { bits_per_s: 8, burst_bytes: 2_000 })).unwrap();
    stall(&engine, port, &mut source, 1500);
    assert_idle("a rate limit holds frames and the peer has room");

    // Small frames fill the peer's queue, large ones our own send buffer first.
    for len in [60, 1500, 60_000] {
        let path = std::env::temp_dir().join(format!("vbackend-idle-{len}-{}", std::process::id()));
        let peer = UnixDatagram::bind(&path).unwrap();
        let segment = cable();
        let (_, mut source) = stream_port(&engine, segment, config());
        let port = engine.add_port(config()).unwrap();
        engine.join(port, segment).unwrap();
        let remote = format!("unix:{}", path.display());
        let ours = UnixDatagram::unbound().unwrap();
        engine.attach_dgram(port, ours.into(), Some(&remote), Some(&remote), None).unwrap();
        stall(&engine, port, &mut source, len);
        assert_idle(&format!("a datagram peer that does not read frames of {len}"));
        let mut datagram = vec![0; 70_000];
        peer.set_nonblocking(true).unwrap();
        eventually("the queue is empty once the peer reads", || {
            while peer.recv(&mut datagram).is_ok() {}
            engine.counters(port).unwrap().tx.queued == 0
        });
        stall(&engine, port, &mut source, len);
        assert_idle("it stalls again");
        drop(peer);
        std::fs::remove_file(&path).unwrap();
        eventually("a peer that is gone has no queue", || engine.counters(port).unwrap().tx.queued == 0);
        assert_idle("a datagram peer that is gone");
        assert_balanced(&engine.counters(port).unwrap());
    }

    guests_that_give_too_little(&engine);
    a_guest_that_gives_to_one_pair_only(&engine);

    let (ours, theirs) = UnixStream::pair().unwrap();
    let port = engine.add_port(config()).unwrap();
    engine.attach_tap(port, ours.into(), true, true).unwrap();
    drop(theirs);
    assert_idle("a descriptor at its end that was said to be a tap");
}

fn guests_that_give_too_little(engine: &Engine) {
    let segment = engine.add_cable().unwrap();
    let (_, mut source) = stream_port(engine, segment, config());
    let port = engine.add_port(config()).unwrap();
    engine.join(port, segment).unwrap();
    let mut guest = Guest::start(engine, port, VERSION_1 | MRG_RXBUF);
    assert_idle("a guest without buffers");
    guest.give(2, 600);
    stall(engine, port, &mut source, 1500);
    assert_idle("a frame needs a buffer more than the guest gave");
    guest.give(2, 600);
    eventually("it arrives", || guest.receive().is_some());
    stall(engine, port, &mut source, 1500);
    assert_idle("the next one has one of three buffers");

    engine.set_rate(port, Some(Rate { bits_per_s: 8, burst_bytes: 2_000 })).unwrap();
    guest.give(8, 600);
    stall(engine, port, &mut source, 1500);
    assert_idle("a rate limit holds frames and the guest has buffers");

    let lost = engine.counters(port).unwrap().tx.drops[DropReason::NoPeer as usize];
    engine.set_rate(port, None).unwrap();
    stall(engine, port, &mut source, 1500);
    engine.vhost_enable_ring(port, 0, false).unwrap();
    eventually("nothing waits for a ring that is disabled", || {
        let tx = engine.counters(port).unwrap().tx;
        tx.queued == 0 && tx.drops[DropReason::NoPeer as usize] > lost
    });
    assert_idle("a guest whose ring is disabled");
    engine.vhost_enable_ring(port, 0, true).unwrap();
    stall(engine, port, &mut source, 1500);
    engine.vhost_stop_ring(port, 0).unwrap();
    eventually("nor for one that is stopped", || engine.counters(port).unwrap().tx.queued == 0);
    assert_idle("a guest whose ring is stopped");
    assert_balanced(&engine.counters(port).unwrap());
}

fn a_guest_that_gives_to_one_pair_only(engine: &Engine) {
    let segment = engine.add_cable().unwrap();
    let (_, mut source) = stream_port(engine, segment, config());
    let port = engine.add_port(config()).unwrap();
    engine.join(port, segment).unwrap();
    let mut guest = Guest::start(engine, port, VERSION_1 | MRG_RXBUF);
    let _kicks = guest.start_pair(engine, port);
    guest.offer_buffers(2, 8, 2048);
    stall(engine, port, &mut source, 1500);
    assert_idle("frames wait for one pair and the other has buffers");
}
