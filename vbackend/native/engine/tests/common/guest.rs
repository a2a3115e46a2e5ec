//! A guest with virtqueues, as a vhost-user front-end shows it to the engine: memory in a file, split rings in it.
//!
//! Reading and writing the file is coherent with the engine's mapping, so no memory is mapped here.

use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use vbackend_engine::{Engine, Place, RegionFile, RingPlace};
use vbackend_proto::segment::PortId;
use vbackend_proto::vnet::VnetHeader;

pub const MEMORY: u64 = 1 << 20;
pub const GUEST: u64 = 0x10_0000; // guest physical address of the file's beginning
pub const USER: u64 = 0x7f00_0000_0000;
pub const SIZE: u16 = 16;
const RING: u64 = 0x1000; // bytes from one ring to the next
const BUFFERS: u64 = 0x1_0000;
pub const BUFFER: u64 = 4096;

pub const VERSION_1: u64 = 1 << 32;
pub const MRG_RXBUF: u64 = 1 << 15;
pub const LOG_ALL: u64 = 1 << 26;
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// A port's guest with one pair of rings: 0 receives, 1 sends.
pub struct Guest {
    pub file: File,
    pub kicks: [File; 2],
    pub calls: [File; 2],
    pub errs: [File; 2],
    posted: [u16; 4], // chains ever made available
    used: [u16; 2],   // chains seen back
}

pub fn eventfd() -> File {
    // SAFETY: eventfd takes no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    assert!(fd >= 0);
    // SAFETY: the call succeeded, so `fd` is open and nobody else owns it.
    File::from(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn memory_file(bytes: u64) -> File {
    // SAFETY: the name is a string that ends with a zero byte.
    let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: as above.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(bytes).unwrap();
    file
}

pub fn copy_of(file: &File) -> OwnedFd {
    file.as_fd().try_clone_to_owned().unwrap()
}

impl Guest {
    /// The driver begins anew on its sending ring.
    pub fn start_over(mut self) -> Guest {
        self.put(RING + 0x400, &[0; 4]);
        self.put(RING + 0x800, &[0; 4]);
        self.posted[1] = 0;
        self
    }

    /// A file of zeroes that lives in memory.
    pub fn memory_file(bytes: u64) -> File {
        memory_file(bytes)
    }

    /// Attach to `port` and start both rings.
    pub fn start(engine: &Engine, port: PortId, features: u64) -> Guest {
        Guest::start_polled(engine, port, features, 0)
    }

    /// The same, on a port that polls for so long before it waits for kicks.
    pub fn start_polled(engine: &Engine, port: PortId, features: u64, busy_poll_us: u64) -> Guest {
        engine.attach_vhost(port, busy_poll_us).unwrap();
        let guest = Guest {
            file: memory_file(MEMORY),
            kicks: [eventfd(), eventfd()],
            calls: [eventfd(), eventfd()],
            errs: [eventfd(), eventfd()],
            posted: [0; 4],
            used: [0; 2],
        };
        engine.vhost_features(port, features).unwrap();
        engine.vhost_set_memory(port, &[guest.region()]).unwrap();
        for ring in 0..2 {
            engine.vhost_set_kick(port, ring, Some(copy_of(&guest.kicks[ring]))).unwrap();
            engine.vhost_set_call(port, ring, Some(copy_of(&guest.calls[ring]))).unwrap();
            engine.vhost_set_err(port, ring, Some(copy_of(&guest.errs[ring]))).unwrap();
            guest.start_ring(engine, port, ring, 0);
            engine.vhost_enable_ring(port, ring, true).unwrap();
        }
        guest
    }

    pub fn region(&self) -> RegionFile {
        let place = Place { guest: GUEST, size: MEMORY, user: USER };
        RegionFile { place, offset: 0, fd: copy_of(&self.file) }
    }

    pub fn place(ring: usize, base: u32) -> RingPlace {
        let at = USER + RING * ring as u64;
        RingPlace { size: SIZE, base, descriptors: at, driver: at + 0x400, device: at + 0x800 }
    }

    pub fn start_ring(&self, engine: &Engine, port: PortId, ring: usize, base: u32) {
        engine.vhost_start_ring(port, ring, Guest::place(ring, base)).unwrap();
    }

    /// Where buffer `index` of a ring is in the file.
    pub fn buffer(ring: usize, index: u16) -> u64 {
        BUFFERS + (ring as u64 * u64::from(SIZE) + u64::from(index)) * BUFFER
    }

    pub fn put(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).unwrap();
    }

    fn word(&self, at: u64) -> u16 {
        let mut raw = [0; 2];
        self.file.read_exact_at(&mut raw, at).unwrap();
        u16::from_le_bytes(raw)
    }

    pub fn put_descriptor(&self, ring: usize, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let mut raw = Vec::new();
        raw.extend_from_slice(&address.to_le_bytes());
        raw.extend_from_slice(&len.to_le_bytes());
        raw.extend_from_slice(&flags.to_le_bytes());
        raw.extend_from_slice(&next.to_le_bytes());
        self.put(RING * ring as u64 + 16 * u64::from(index), &raw);
    }

    /// Make descriptor `head` available, without a kick.
    pub fn offer(&mut self, ring: usize, head: u16) {
        let available = RING * ring as u64 + 0x400;
        self.put(available + 4 + 2 * u64::from(self.posted[ring] % SIZE), &head.to_le_bytes());
        self.posted[ring] = self.posted[ring].wrapping_add(1);
        self.put(available + 2, &self.posted[ring].to_le_bytes());
    }

    pub fn kick(&self, ring: usize) {
        use std::io::Write;
        (&self.kicks[ring]).write_all(&1u64.to_ne_bytes()).unwrap();
    }

    /// Start a second pair of rings, 2 and 3; returns its kicks.
    pub fn start_pair(&self, engine: &Engine, port: PortId) -> [File; 2] {
        let kicks = [eventfd(), eventfd()];
        for (ring, kick) in (2..).zip(&kicks) {
            engine.vhost_set_kick(port, ring, Some(copy_of(kick))).unwrap();
            self.start_ring(engine, port, ring, 0);
            engine.vhost_enable_ring(port, ring, true).unwrap();
        }
        kicks
    }

    /// Give `count` receive buffers of `len` bytes each.
    pub fn give(&mut self, count: u16, len: u32) {
        self.offer_buffers(0, count, len);
        self.kick(0);
    }

    /// Have them lie in a ring, without a kick.
    pub fn offer_buffers(&mut self, ring: usize, count: u16, len: u32) {
        for _ in 0..count {
            let index = self.posted[ring] % SIZE;
            self.put_descriptor(ring, index, GUEST + Guest::buffer(ring, index), len, WRITE, 0);
            self.offer(ring, index);
        }
    }

    /// Whether the engine wants kicks of a ring (no `VIRTQ_USED_F_NO_NOTIFY`).
    pub fn is_kick_wanted(&self, ring: usize) -> bool {
        self.word(RING * ring as u64 + 0x800) == 0
    }

    /// Send a frame in two descriptors: header, then frame.
    pub fn send(&mut self, frame: &[u8]) {
        self.offer_frame(frame);
        self.kick(1);
    }

    /// The same with another header than a plain one.
    pub fn send_with(&mut self, vnet: &VnetHeader, frame: &[u8]) {
        self.offer_frame_on(1, vnet, frame);
        self.kick(1);
    }

    /// Have a frame lie in the ring, without a kick.
    pub fn offer_frame(&mut self, frame: &[u8]) {
        self.offer_frame_on(1, &VnetHeader::PLAIN, frame);
    }

    /// The same in another ring.
    pub fn offer_frame_on(&mut self, ring: usize, vnet: &VnetHeader, frame: &[u8]) {
        let index = self.posted[ring] * 2 % SIZE;
        let at = Guest::buffer(ring, index);
        self.put(at, &vnet.emit());
        self.put(at + 12, frame);
        self.put_descriptor(ring, index, GUEST + at, 12, NEXT, index + 1);
        self.put_descriptor(ring, index + 1, GUEST + at + 12, u32::try_from(frame.len()).unwrap(), 0, 0);
        self.offer(ring, index);
    }

    /// How many chains of a ring came back in all.
    pub fn used(&self, ring: usize) -> u16 {
        self.word(RING * ring as u64 + 0x802)
    }

    /// The bytes that the next returned receive buffer holds.
    pub fn take_buffer(&mut self) -> Option<Vec<u8>> {
        if self.used(0) == self.used[0] {
            return None;
        }
        let element = RING_USED + 8 * u64::from(self.used[0] % SIZE);
        let (id, len) = (self.word(element), self.word(element + 4));
        self.used[0] = self.used[0].wrapping_add(1);
        let mut bytes = vec![0; usize::from(len)];
        self.file.read_exact_at(&mut bytes, Guest::buffer(0, id)).unwrap();
        Some(bytes)
    }

    /// The next received frame without its header, of as many buffers as the header says.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let mut bytes = self.take_buffer()?;
        for _ in 1..u16::from_le_bytes([bytes[10], bytes[11]]) {
            bytes.extend(self.take_buffer().expect("all buffers of a frame are published at once"));
        }
        Some(bytes.split_off(12))
    }
}

const RING_USED: u64 = 0x804;
