//! Guests that rewrite their rings and buffers in a tight loop while the engine reads them.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use common::guest::{BUFFER, GUEST, Guest, INDIRECT, MEMORY, MRG_RXBUF, NEXT, SIZE, VERSION_1, WRITE};
use common::{balanced, config, eventually, frame, read_frame, stream_port, wire};
use vbackend_engine::Engine;
use vbackend_proto::segment::PortId;
use vbackend_proto::testing::flow::Flow;

const INDIRECT_DESC: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;
const RING_PACKED: u64 = 1 << 34;
const OFFLOADS: u64 = 1 | 1 << 1 | 0xf << 7 | 0xf << 11 | 7 << 54; // checksums and segments, both ways
const ROUNDS: u32 = 1000;

/// An indirect table, where no buffer is.
const TABLE: usize = 0x8000;

/// The guest's memory as another thread of it has it.
struct Shared {
    start: *mut libc::c_void,
    dice: u64,
}

// SAFETY: an address range that any thread may access, here by atomics only.
unsafe impl Send for Shared {}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, whose last user this is.
        unsafe { libc::munmap(self.start, usize::try_from(MEMORY).unwrap()) };
    }
}

impl Shared {
    fn new(file: &File, dice: u64) -> Shared {
        let (len, both) = (usize::try_from(MEMORY).unwrap(), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), len, both, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert_ne!(start, libc::MAP_FAILED);
        Shared { start, dice }
    }

    fn place<T>(&self, at: usize) -> &T {
        assert!(
            at + size_of::<T>() <= usize::try_from(MEMORY).unwrap() && at.is_multiple_of(align_of::<T>())
        );
        // SAFETY: inside the mapping and aligned, just checked; callers ask for atomics.
        unsafe { &*self.start.cast::<u8>().add(at).cast::<T>() }
    }

    fn roll(&mut self) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.roll() >> 16).unwrap() % choices.len()]
    }

    /// One of `bad` now and then, else one of `good`.
    fn pick_good<T: Copy>(&mut self, good: &[T], bad: &[T]) -> T {
        let from = if self.roll().is_multiple_of(64) { bad } else { good };
        self.pick(from)
    }

    /// Change one field of a descriptor at `at`. Most of what comes out can be used, until it is changed again.
    fn descriptor(&mut self, at: usize, ring: usize, packed: bool) {
        let buffers = Guest::buffer(ring, 0);
        let inside = GUEST + buffers + self.roll() % (u64::from(SIZE) * BUFFER);
        match self.roll() % 8 {
            0..3 => {
                let outside = [0, GUEST - 1, GUEST + MEMORY - 61, 1 << 63, u64::MAX, u64::MAX - 59];
                let address = self.pick_good(&[inside, inside, GUEST + TABLE as u64], &outside);
                self.place::<AtomicU64>(at).store(address, Ordering::Relaxed);
            }
            3..6 => {
                let lens = [0, 1, 11, 12, 13, 16, 26, 64, 208, 256, 700, 1526, 4096, 16_384];
                let len = self.pick_good(&lens, &[65_562, 70_000, 1 << 31, u32::MAX]);
                self.place::<AtomicU32>(at + 8).store(len, Ordering::Relaxed);
            }
            _ => {
                let way = if ring == 0 { WRITE } else { 0 };
                let flags = self.pick_good(&[0, 0, NEXT, INDIRECT], &[WRITE, INDIRECT | NEXT, 0xff00]) ^ way;
                let link = self.pick_good(&[0, 1, 3, 7, SIZE - 1], &[SIZE, u16::MAX]);
                let (link_at, flags_at) = if packed { (at + 12, at + 14) } else { (at + 14, at + 12) };
                let turn = if packed { self.pick(&[1 << 7, 1 << 15]) } else { 0 }; // available in either lap
                self.place::<AtomicU16>(link_at).store(link, Ordering::Relaxed);
                self.place::<AtomicU16>(flags_at).store(flags | turn, Ordering::Release);
            }
        }
    }

    /// One blow at either ring, its table or its buffers.
    fn blow(&mut self, packed: bool) {
        let ring = usize::try_from(self.roll() % 2).unwrap();
        let (start, slot) = (0x1000 * ring, usize::try_from(self.roll()).unwrap() % usize::from(SIZE));
        match self.roll() % 8 {
            0..4 => self.descriptor(start + 16 * slot, ring, packed),
            4 => self.descriptor(TABLE + 16 * slot, ring, packed),
            5 => {
                // What is in the buffers: virtio-net headers, addresses, headers of IP.
                let at = usize::try_from(Guest::buffer(ring, 0) + self.roll() % (u64::from(SIZE) * BUFFER));
                let byte = self.pick(&[0, 1, 2, 3, 4, 5, 0x45, 0x60, 6, 17, 8, 0xff]);
                self.place::<AtomicU8>(at.unwrap()).store(byte, Ordering::Relaxed);
            }
            6 if packed => {
                let event = u16::try_from(self.roll() & 0xffff).unwrap();
                self.place::<AtomicU16>(start + 0x400).store(event, Ordering::Relaxed);
                self.place::<AtomicU16>(start + 0x402).store(event % 4, Ordering::Relaxed);
            }
            6 => {
                let head = self.pick_good(&[0, 1, 2, 5, 7, 9, SIZE - 1], &[SIZE, u16::MAX]);
                self.place::<AtomicU16>(start + 0x404 + 2 * slot).store(head, Ordering::Relaxed);
            }
            _ if packed => self.descriptor(start + 16 * slot, ring, packed),
            _ => {
                let used = self.place::<AtomicU16>(start + 0x802).load(Ordering::Acquire);
                let index = used.wrapping_add(self.pick_good(&[1, 2, 8, SIZE], &[0, SIZE + 1, u16::MAX]));
                self.place::<AtomicU16>(start + 0x402).store(index, Ordering::Release);
            }
        }
    }
}

fn guest(engine: &Engine, segment: u64, features: u64) -> (PortId, Guest) {
    let port = engine.add_port(config()).unwrap();
    engine.join(port, segment).unwrap();
    (port, Guest::start(engine, port, features))
}

/// Says so when it is dropped, so that a failure does not wait for the threads for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The liar's rings are stopped and started again, and others go on exchanging frames through the same worker.
#[test]
fn descriptors_and_buffers_change_under_the_engine() {
    for (name, features) in [
        ("split", MRG_RXBUF | INDIRECT_DESC),
        ("split, no merging", INDIRECT_DESC | EVENT_IDX),
        ("packed", MRG_RXBUF | INDIRECT_DESC | RING_PACKED | EVENT_IDX),
    ] {
        let engine = Engine::new(1, 1).unwrap();
        let (cable, other_cable) = (engine.add_cable().unwrap(), engine.add_cable().unwrap());
        let (bad, liar) = guest(&engine, cable, VERSION_1 | OFFLOADS | features);
        let (peer, neighbour) = stream_port(&engine, cable, config());
        let (_, mut from) = guest(&engine, other_cable, VERSION_1 | MRG_RXBUF);
        let (_, mut to) = guest(&engine, other_cable, VERSION_1 | MRG_RXBUF);
        let (over, flow) = (AtomicBool::new(false), Flow::tcp());
        let mut stops = [0; 2];
        std::thread::scope(|scope| {
            let _over = Over(&over);
            let over = &over;
            for dice in [7, 11] {
                let mut shared = Shared::new(&liar.file, dice);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        (0..64).for_each(|_| shared.blow(features & RING_PACKED != 0));
                        std::thread::yield_now();
                    }
                });
            }
            let mut heard = neighbour.try_clone().unwrap();
            scope.spawn(move || {
                let mut last = None;
                while let Some(frame) = read_frame(&mut heard) {
                    last = Some(frame.len());
                }
                last
            });
            for serial in 0..ROUNDS {
                for (ring, stops) in stops.iter_mut().enumerate() {
                    if (&liar.errs[ring]).read(&mut [0; 8]).is_ok() {
                        *stops += 1;
                        liar.start_ring(&engine, bad, ring, 0);
                    }
                    liar.kick(ring);
                }
                // One frame, or many that are merged into one for the liar, who takes those.
                let data = [20, 600, 4000, 65_000][serial as usize % 4];
                (&neighbour).write_all(&wire(&flow.segments(&vec![7; data], 1448))).unwrap();
                let sent = frame(2, 1, 1514, serial);
                to.give(1, 4096);
                from.send(&sent);
                let mut got = None;
                eventually("the bystander gets a frame", || {
                    got = to.receive();
                    got.is_some()
                });
                assert_eq!(got, Some(sent), "{name}");
            }
            neighbour.shutdown(Shutdown::Both).unwrap();
        });
        let counters = engine.counters(bad).unwrap();
        let [rings_rx, rings_tx] = [0, 1].map(|ring| engine.vhost_rings(bad).unwrap()[ring].frames);
        assert!(
            stops[0] > 9 && stops[1] > 9 && rings_rx > 0 && rings_tx > 9,
            "{name}: {stops:?}, {counters:?}"
        );
        for port in [bad, peer] {
            eventually("all is accounted", || {
                let counters = engine.counters(port).unwrap();
                balanced(&counters.rx) && balanced(&counters.tx)
            });
        }
    }
}
