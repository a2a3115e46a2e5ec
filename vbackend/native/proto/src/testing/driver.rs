//! The driver's side of a virtqueue, in either layout: a mock that does what VIRTIO 1.2 asks of a driver, and no more.

use super::ram::{Ram, RamArea};
use crate::vring::{Areas, Config, areas_len};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// A buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Where, in guest physical memory.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// Whether the device writes it.
    pub write: bool,
}

/// When the driver wants calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// Never.
    Off,
    /// For the next used descriptor, or, without VIRTIO_F_EVENT_IDX, for each.
    On,
    /// With VIRTIO_F_EVENT_IDX: when so many more (split: chains, packed: slots) were used, else as `On`.
    After(u16),
}

/// A driver with one ring.
#[derive(Debug)]
pub struct Driver<'a> {
    ram: &'a Ram,
    config: Config,
    packed: bool,
    at: [u64; 3],
    next: u32,      // split: index of the next chain; packed: lap and slot, modulo twice the size
    used: u32,      // the same of the next one to come back
    published: u32, // `next` when it was made visible
    free: Vec<u16>, // split: free descriptors; packed: free ids
    room: usize,    // packed: free slots
    held: Vec<Vec<u16>>, // by id, what returns to `free`; packed: as many numbers as slots
    flags: Vec<(u64, u16)>, // packed: flags that publish
}

impl<'a> Driver<'a> {
    /// A ring at `address`, which begins at `start`: a split ring's index, or a packed one's lap and slot, modulo
    /// twice the size.
    #[must_use]
    pub fn new(ram: &'a Ram, packed: bool, config: Config, address: u64, start: u32) -> Driver<'a> {
        let [descriptors, driver, _] =
            areas_len(packed, config.size).map(|len| len.next_multiple_of(16) as u64);
        let at = [address, address + descriptors, address + descriptors + driver];
        let modulus = if packed { 2 * u32::from(config.size) } else { 65536 };
        let next = start % modulus;
        let size = usize::from(config.size);
        let this = Driver {
            ram,
            config,
            packed,
            at,
            next,
            used: next,
            published: next,
            free: (0..config.size).rev().collect(),
            room: size,
            held: vec![Vec::new(); size],
            flags: Vec::new(),
        };
        if packed {
            // The slots look as if all of the laps before had been used.
            for slot in 0..u32::from(config.size) {
                let wrap = this.wrap_of(if slot < this.slot(next).into() {
                    next
                } else {
                    next + u32::from(config.size)
                });
                ram.put(
                    this.descriptor(slot as u16) + 14,
                    &(if wrap { AVAIL | USED } else { 0 }).to_le_bytes(),
                );
            }
        } else {
            ram.put(this.at[1] + 2, &(next as u16).to_le_bytes());
            ram.put(this.at[2] + 2, &(next as u16).to_le_bytes());
        }
        this
    }

    /// Bytes a ring takes in memory.
    #[must_use]
    pub fn footprint(packed: bool, size: u16) -> usize {
        areas_len(packed, size).map(|len| len.next_multiple_of(16)).iter().sum()
    }

    /// Its parts, as the device is told of them.
    #[must_use]
    pub fn areas(&self) -> Areas<RamArea<'a>> {
        let [a, b, c] = areas_len(self.packed, self.config.size);
        let part = |index: usize, len| self.ram.whole(self.at[index], len);
        Areas { descriptors: part(0, a), driver: part(1, b), device: part(2, c) }
    }

    /// Where its parts are.
    #[must_use]
    pub fn addresses(&self) -> [u64; 3] {
        self.at
    }

    /// What a front-end sends as `SET_VRING_BASE` for it now.
    #[must_use]
    pub fn base(&self) -> u32 {
        if self.packed { self.packed_base(self.used) } else { self.used }
    }

    fn packed_base(&self, at: u32) -> u32 {
        let bits = u32::from(self.slot(at)) | u32::from(self.wrap_of(at)) << 15;
        bits << 16 | bits
    }

    /// Return all chains from `base` on, as QEMU does with a packed ring of a guest that transmits to no device; returns the
    /// base for the next device (hw/virtio/virtio.c, virtqueue_packed_drop_all).
    #[must_use]
    pub fn empty(&self, base: u32) -> u32 {
        let mut at = self.position((base >> 16) as u16);
        let flags = |at| self.ram.word(self.descriptor(self.slot(at)) + 14);
        loop {
            let (waits, used) = if self.wrap_of(at) { (AVAIL, AVAIL | USED) } else { (USED, 0) };
            if flags(at) & (AVAIL | USED) != waits {
                return self.packed_base(at);
            }
            let mut last = at;
            while flags(last) & NEXT != 0 {
                last = self.step(last, 1);
            }
            let id = self.ram.word(self.descriptor(self.slot(last)) + 12);
            let head = self.descriptor(self.slot(at));
            self.ram.put(head + 8, &0u32.to_le_bytes());
            self.ram.put(head + 12, &id.to_le_bytes());
            self.ram.put(head + 14, &used.to_le_bytes());
            at = self.step(last, 1);
        }
    }

    /// Write a chain, in an indirect table at `table` if there is one; returns its id, or None when the ring is full.
    ///
    /// The device sees it after [`Driver::publish`].
    pub fn post(&mut self, buffers: &[Buffer], table: Option<u64>) -> Option<u16> {
        let indirect = table.map(|table| {
            for (index, buffer) in buffers.iter().enumerate() {
                let last = index + 1 == buffers.len();
                let words = match self.packed {
                    false => [flags_of(buffer) | if last { 0 } else { NEXT }, index as u16 + 1],
                    true => [0, flags_of(buffer)],
                };
                self.put_descriptor(table + 16 * index as u64, buffer, words);
            }
            Buffer { address: table, len: 16 * buffers.len() as u32, write: false }
        });
        let (buffers, extra) = match &indirect {
            Some(table) => (std::slice::from_ref(table), INDIRECT),
            None => (buffers, 0),
        };
        if self.packed { self.post_packed(buffers, extra) } else { self.post_split(buffers, extra) }
    }

    fn post_split(&mut self, buffers: &[Buffer], extra: u16) -> Option<u16> {
        let rest = self.free.len().checked_sub(buffers.len())?;
        let taken = self.free.split_off(rest);
        for (index, buffer) in buffers.iter().enumerate() {
            let link = taken.get(index + 1);
            let flags = flags_of(buffer) | extra | if link.is_some() { NEXT } else { 0 };
            let next = link.copied().unwrap_or(0xffff);
            self.put_descriptor(self.descriptor(taken[index]), buffer, [flags, next]);
        }
        let head = taken[0];
        self.held[usize::from(head)] = taken;
        let place = u64::from(self.next % u32::from(self.config.size));
        self.ram.put(self.at[1] + 4 + 2 * place, &head.to_le_bytes());
        self.next = self.step(self.next, 1);
        Some(head)
    }

    fn post_packed(&mut self, buffers: &[Buffer], extra: u16) -> Option<u16> {
        self.room = self.room.checked_sub(buffers.len())?;
        let id = self.free.pop().expect("as many ids as slots");
        for (index, buffer) in buffers.iter().enumerate() {
            let last = index + 1 == buffers.len();
            let wrap = if self.wrap_of(self.next) { AVAIL } else { USED };
            let flags = flags_of(buffer) | extra | wrap | if last { 0 } else { NEXT };
            let at = self.descriptor(self.slot(self.next));
            let link = if last { id } else { 0xdead };
            if index == 0 {
                let still = self.ram.word(at + 14); // until it is published
                self.put_descriptor(at, buffer, [link, still]);
                self.flags.push((at + 14, flags));
            } else {
                self.put_descriptor(at, buffer, [link, flags]);
            }
            self.next = self.step(self.next, 1);
        }
        self.held[usize::from(id)] = vec![id; buffers.len()];
        Some(id)
    }

    /// Make what was posted available; returns whether the device wants a kick for it.
    pub fn publish(&mut self) -> bool {
        for (at, flags) in self.flags.drain(..) {
            self.ram.put(at, &flags.to_le_bytes());
        }
        let before = std::mem::replace(&mut self.published, self.next);
        let count = self.distance(before, self.next);
        let event = match self.packed {
            false => {
                self.ram.put(self.at[1] + 2, &(self.next as u16).to_le_bytes());
                match self.config.event_idx {
                    true => u32::from(self.ram.word(self.at[2] + 4 + 8 * u64::from(self.config.size))),
                    false => return count > 0 && self.ram.word(self.at[2]) & 1 == 0,
                }
            }
            true => match self.ram.word(self.at[2] + 2) {
                0 => return count > 0,
                1 => return false,
                _ => self.position(self.ram.word(self.at[2])),
            },
        };
        self.distance(before, event) < count
    }

    /// The next chain that came back: its id, and the bytes written to it.
    ///
    /// # Panics
    /// When it was not given to the device.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        let (id, len) = match self.packed {
            false => {
                if u32::from(self.ram.word(self.at[2] + 2)) == self.used {
                    return None;
                }
                let element = self.at[2] + 4 + 8 * u64::from(self.used % u32::from(self.config.size));
                (u16::try_from(self.ram.long(element)).expect("is a head index"), self.ram.long(element + 4))
            }
            true => {
                let at = self.descriptor(self.slot(self.used));
                let expected = if self.wrap_of(self.used) { AVAIL | USED } else { 0 };
                let flags = self.ram.word(at + 14);
                if self.room == usize::from(self.config.size) || flags & (AVAIL | USED) != expected {
                    return None;
                }
                let len = self.ram.long(at + 8);
                assert_eq!(
                    flags & WRITE != 0,
                    len > 0,
                    "VIRTIO 1.2 §2.8.4: whether the length says anything"
                );
                (self.ram.word(at + 12), len)
            }
        };
        let held = std::mem::take(&mut self.held[usize::from(id)]);
        assert!(!held.is_empty(), "{id} was not given to the device");
        self.used = self.step(self.used, if self.packed { held.len() as u32 } else { 1 });
        match self.packed {
            false => self.free.extend(held),
            true => {
                self.room += held.len();
                self.free.push(id);
            }
        }
        Some((id, len))
    }

    /// Say when calls are wanted.
    pub fn want(&self, calls: Calls) {
        let after = match calls {
            Calls::After(count) if self.config.event_idx => u32::from(count),
            _ => 0,
        };
        let event = self.step(self.used, after);
        let off = u16::from(calls == Calls::Off);
        match (self.packed, self.config.event_idx) {
            (false, true) => {
                // Off: a place that is passed as late as can be.
                let event = if calls == Calls::Off { self.step(self.used, 65535) } else { event };
                let at = self.at[1] + 4 + 2 * u64::from(self.config.size);
                self.ram.put(at, &(event as u16).to_le_bytes());
            }
            (false, false) => self.ram.put(self.at[1], &off.to_le_bytes()),
            (true, event_idx) => {
                let bits = self.slot(event) | u16::from(self.wrap_of(event)) << 15;
                let wish = if event_idx && off == 0 { 2 } else { off };
                self.ram.put(self.at[1], &bits.to_le_bytes());
                self.ram.put(self.at[1] + 2, &wish.to_le_bytes());
            }
        }
    }

    /// Write a descriptor whose last two words are, in a split ring, flags and next, in a packed one id and flags.
    fn put_descriptor(&self, at: u64, buffer: &Buffer, words: [u16; 2]) {
        self.ram.put(at, &buffer.address.to_le_bytes());
        self.ram.put(at + 8, &buffer.len.to_le_bytes());
        self.ram.put(at + 12, &words[0].to_le_bytes());
        self.ram.put(at + 14, &words[1].to_le_bytes());
    }

    fn descriptor(&self, slot: u16) -> u64 {
        self.at[0] + 16 * u64::from(slot)
    }

    fn modulus(&self) -> u32 {
        if self.packed { 2 * u32::from(self.config.size) } else { 65536 }
    }

    fn step(&self, at: u32, count: u32) -> u32 {
        (at + count) % self.modulus()
    }

    fn distance(&self, from: u32, to: u32) -> u32 {
        (to + self.modulus() - from) % self.modulus()
    }

    fn slot(&self, at: u32) -> u16 {
        (at % u32::from(self.config.size)) as u16
    }

    /// The wrap counter in a packed ring: 1 in the first lap (VIRTIO 1.2 §2.8.1).
    fn wrap_of(&self, at: u32) -> bool {
        at % self.modulus() < u32::from(self.config.size)
    }

    fn position(&self, bits: u16) -> u32 {
        u32::from(bits & 0x7fff) + if bits >> 15 == 1 { 0 } else { u32::from(self.config.size) }
    }
}

fn flags_of(buffer: &Buffer) -> u16 {
    if buffer.write { WRITE } else { 0 }
}
