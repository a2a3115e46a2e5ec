//! Guest memory of plain bytes, in regions.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use crate::vring::{Area, Memory};

/// Guest memory. Every read through an [`Area`] is noted, so that a test can see what was read twice.
#[derive(Debug, Default)]
pub struct Ram {
    regions: Vec<(u64, Vec<Cell<u8>>)>,
    reads: RefCell<Vec<Range<u64>>>,
    writes: Cell<usize>, // made through areas
    dies_at: Cell<Option<usize>>,
}

/// A piece of [`Ram`].
#[derive(Clone, Copy, Debug)]
pub struct RamArea<'a> {
    ram: &'a Ram,
    address: u64,
    bytes: &'a [Cell<u8>],
}

impl Ram {
    /// Zeroed regions, as (address, bytes).
    #[must_use]
    pub fn new(regions: &[(u64, usize)]) -> Ram {
        let regions = regions.iter().map(|(address, len)| (*address, vec![Cell::new(0); *len])).collect();
        Ram { regions, ..Ram::default() }
    }

    /// What was read since this was asked last, as addresses.
    pub fn take_reads(&self) -> Vec<Range<u64>> {
        self.reads.take()
    }

    /// Leave out all writes through an [`Area`] but the next `writes`: the device dies then.
    pub fn die_after(&self, writes: usize) {
        self.dies_at.set(self.writes.get().checked_add(writes));
    }

    /// Take writes again; returns how many were left out.
    pub fn revive(&self) -> usize {
        self.dies_at.take().map_or(0, |dies_at| self.writes.get().saturating_sub(dies_at))
    }

    /// The whole of `address..address + len`.
    ///
    /// # Panics
    /// When it is not in one region.
    #[must_use]
    pub fn whole(&self, address: u64, len: usize) -> RamArea<'_> {
        let area = self.area(address, len).filter(|area| area.len() == len);
        area.unwrap_or_else(|| panic!("{len} bytes at {address:#x} are not in one region"))
    }

    /// Overwrite what lies at `address`. Whatever is not memory is left out.
    pub fn put(&self, address: u64, bytes: &[u8]) {
        for (at, byte) in (address..).zip(bytes) {
            if let Some(area) = self.area(at, 1) {
                area.bytes[0].set(*byte);
            }
        }
    }

    /// The number of two bytes at `address`.
    #[must_use]
    pub fn word(&self, address: u64) -> u16 {
        let mut raw = [0; 2];
        self.whole(address, 2).copy_to(&mut raw);
        u16::from_le_bytes(raw)
    }

    /// The number of four bytes at `address`.
    #[must_use]
    pub fn long(&self, address: u64) -> u32 {
        u32::from(self.word(address)) | u32::from(self.word(address + 2)) << 16
    }
}

impl<'a> Memory for &'a Ram {
    type Area = RamArea<'a>;

    fn area(&self, address: u64, len: usize) -> Option<RamArea<'a>> {
        let ram: &'a Ram = self;
        ram.regions.iter().find_map(|(base, bytes)| {
            let at = usize::try_from(address.checked_sub(*base)?).ok()?;
            let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
            Some(RamArea { ram, address, bytes: &rest[..len.min(rest.len())] })
        })
    }

    fn fence(&self) {}
}

impl RamArea<'_> {
    /// Its guest physical address.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    fn copy_to(&self, out: &mut [u8]) {
        for (byte, cell) in out.iter_mut().zip(self.bytes) {
            *byte = cell.get();
        }
    }
}

impl Area for RamArea<'_> {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn read(&self, at: usize, out: &mut [u8]) {
        let piece = self.slice(at, out.len());
        piece.copy_to(out);
        self.ram.reads.borrow_mut().push(piece.address..piece.address + out.len() as u64);
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        let count = self.ram.writes.replace(self.ram.writes.get() + 1);
        if self.ram.dies_at.get().is_some_and(|dies_at| count >= dies_at) {
            return;
        }
        for (cell, byte) in self.slice(at, bytes.len()).bytes.iter().zip(bytes) {
            cell.set(*byte);
        }
    }

    fn load(&self, at: usize) -> u16 {
        assert!(at.is_multiple_of(2));
        let mut raw = [0; 2];
        self.read(at, &mut raw);
        u16::from_le_bytes(raw)
    }

    fn store(&self, at: usize, value: u16) {
        assert!(at.is_multiple_of(2));
        self.write(at, &value.to_le_bytes());
    }

    fn slice(&self, at: usize, len: usize) -> Self {
        RamArea { ram: self.ram, address: self.address + at as u64, bytes: &self.bytes[at..at + len] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_ends_with_its_region() {
        let ram = Ram::new(&[(0x1000, 16), (0x1010, 16), (0x3000, 1)]);
        let memory = &ram;
        for (address, len, expected) in [
            (0x1000, 16, Some(16)),
            (0x1008, 16, Some(8)),
            (0x1010, 17, Some(16)),
            (0x1020, 1, None),
            (0xfff, 2, None),
            (u64::MAX, 1, None),
        ] {
            let area = memory.area(address, len);
            assert_eq!(area.map(|area| (area.address(), area.len())), expected.map(|len| (address, len)));
        }
    }

    #[test]
    fn reads_are_noted_and_what_is_put_is_read() {
        let ram = Ram::new(&[(0x1000, 4), (0x1004, 4)]);
        ram.put(0x1002, &[1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((ram.long(0x1004), ram.word(0x1002)), (0x0605_0403, 0x0201));
        let area = ram.whole(0x1000, 4);
        area.store(2, 0x0908);
        assert_eq!((area.load(2), area.slice(2, 2).load(0)), (0x0908, 0x0908));
        assert_eq!(ram.take_reads(), [0x1002..0x1004, 0x1002..0x1004]);
    }
}
