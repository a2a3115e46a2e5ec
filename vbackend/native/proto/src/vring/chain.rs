//! Descriptor chains: what a ring's descriptors say, checked, as parts of guest memory.

use super::{Area, Config, Direction, Memory, RingError};

/// Bytes of a descriptor, in both layouts and in indirect tables.
pub(super) const DESCRIPTOR_LEN: usize = 16;

/// `VIRTQ_DESC_F_NEXT`: the chain goes on.
pub(super) const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`: the device writes.
pub(super) const WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT`: the buffer is a table of descriptors.
pub(super) const INDIRECT: u16 = 4;

/// One chain of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Bytes of all parts.
    pub len: u32,
    /// Its parts in the batch: `first..first + count`.
    pub first: u32,
    /// How many parts.
    pub count: u16,
    /// Head index (split) or buffer id (packed).
    pub id: u16,
    /// Descriptors it takes of the ring (packed) or the table (split), those of an indirect table not counted.
    pub slots: u16,
}

/// Chains in the order they were fetched, and their parts of guest memory.
#[derive(Debug)]
pub struct Batch<A> {
    /// The chains.
    pub chains: Vec<Chain>,
    /// The parts of all chains. None is empty; neighbours may belong to one buffer.
    pub parts: Vec<A>,
    table: Vec<u8>, // the indirect table being read; grows to the longest one
}

impl<A> Default for Batch<A> {
    fn default() -> Batch<A> {
        Batch { chains: Vec::new(), parts: Vec::new(), table: Vec::new() }
    }
}

impl<A> Batch<A> {
    /// Forget all chains, keep the room.
    pub fn clear(&mut self) {
        self.chains.clear();
        self.parts.clear();
    }

    /// Forget the first `count` chains; the others become the first.
    pub fn drop_first(&mut self, count: usize) {
        let Some(parts) = self.chains.get(count).map(|chain| chain.first) else { return self.clear() };
        self.chains.drain(..count);
        self.parts.drain(..parts as usize);
        self.chains.iter_mut().for_each(|chain| chain.first -= parts);
    }

    /// The guest memory of a chain of this batch.
    #[inline]
    #[must_use]
    pub fn parts_of(&self, chain: &Chain) -> &[A] {
        &self.parts[chain.first as usize..][..usize::from(chain.count)]
    }
}

/// A descriptor as it was copied.
#[derive(Clone, Copy)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    /// The next index (split) or the buffer id (packed).
    pub(super) link: u16,
}

impl Descriptor {
    /// `struct virtq_desc`, VIRTIO 1.2 §2.7.5.
    #[inline]
    fn split(raw: &[u8; DESCRIPTOR_LEN]) -> Descriptor {
        let (address, len, flags, link) = fields(raw);
        Descriptor { address, len, flags, link }
    }

    /// `struct pvirtq_desc`, VIRTIO 1.2 §2.8.13.
    #[inline]
    fn packed(raw: &[u8; DESCRIPTOR_LEN]) -> Descriptor {
        let (address, len, link, flags) = fields(raw);
        Descriptor { address, len, flags, link }
    }
}

#[inline]
fn fields(raw: &[u8; DESCRIPTOR_LEN]) -> (u64, u32, u16, u16) {
    let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, b0, b1, c0, c1] = *raw;
    (
        u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
        u32::from_le_bytes([l0, l1, l2, l3]),
        u16::from_le_bytes([b0, b1]),
        u16::from_le_bytes([c0, c1]),
    )
}

/// Turns descriptors into the chains of a batch, for one fetch.
pub(super) struct Walk<'a, M: Memory> {
    memory: &'a M,
    batch: &'a mut Batch<M::Area>,
    size: u16,
    indirect: bool,
    direction: Direction,
    write: u16, // WRITE, as all buffers must have it
    most_bytes: u32,
    work: usize, // what may still be copied before no other chain is begun
    // Of the chain being walked:
    len: u32,
    first: usize,
    left: u16, // buffers it may still have
}

impl<'a, M: Memory> Walk<'a, M> {
    #[inline]
    pub(super) fn new(
        memory: &'a M,
        direction: Direction,
        config: &Config,
        most: usize,
        batch: &'a mut Batch<M::Area>,
    ) -> Walk<'a, M> {
        let (write, most_bytes) = match direction {
            Direction::FromGuest => (0, config.most_bytes),
            Direction::ToGuest => (WRITE, u32::MAX), // §2.7.5.2: no chain has more than 2^32 bytes
        };
        let work = usize::from(config.size) + most.min(usize::from(config.size));
        let (size, indirect) = (config.size, config.indirect);
        Walk { memory, batch, size, indirect, direction, write, most_bytes, work, len: 0, first: 0, left: 0 }
    }

    /// Whether another chain may be begun.
    #[inline]
    pub(super) fn goes_on(&self) -> bool {
        self.work > 0
    }

    /// Append the chain that `collect` walks and gives id and slots of. A bad one leaves nothing behind.
    #[inline]
    pub(super) fn chain(
        &mut self,
        collect: impl FnOnce(&mut Self) -> Result<(u16, u16), RingError>,
    ) -> Result<u16, RingError> {
        self.len = 0;
        self.first = self.batch.parts.len();
        self.left = self.size;
        match collect(self) {
            Ok((id, slots)) => {
                let count = (self.batch.parts.len() - self.first) as u16; // `part` sees to it
                if let Some(part) = self.batch.parts.get(self.first) {
                    part.prefetch(self.direction);
                }
                self.batch.chains.push(Chain { len: self.len, first: self.first as u32, count, id, slots });
                Ok(slots)
            }
            Err(error) => {
                self.batch.parts.truncate(self.first);
                Err(error)
            }
        }
    }

    /// Copy the descriptor at `index` of a split ring's table.
    #[inline]
    pub(super) fn split(&mut self, table: M::Area, index: u16) -> Descriptor {
        Descriptor::split(&self.copy(table, index))
    }

    /// Copy the descriptor in `slot` of a packed ring.
    #[inline]
    pub(super) fn packed(&mut self, ring: M::Area, slot: u16) -> Descriptor {
        Descriptor::packed(&self.copy(ring, slot))
    }

    #[inline]
    fn copy(&mut self, table: M::Area, index: u16) -> [u8; DESCRIPTOR_LEN] {
        self.work = self.work.saturating_sub(1);
        let mut raw = [0; DESCRIPTOR_LEN];
        table.read(DESCRIPTOR_LEN * usize::from(index), &mut raw);
        raw
    }

    /// Add a buffer to the chain. An empty one adds nothing: the specification does not rule it out.
    #[inline]
    pub(super) fn buffer(&mut self, descriptor: &Descriptor) -> Result<(), RingError> {
        self.left = self.left.checked_sub(1).ok_or(RingError::Loop)?;
        if descriptor.flags & WRITE != self.write {
            return Err(RingError::WrongWay);
        }
        if descriptor.len == 0 {
            return Ok(());
        }
        let len = self.len.checked_add(descriptor.len).filter(|len| *len <= self.most_bytes);
        self.len = len.ok_or(RingError::TooLong)?;
        match self.memory.area(descriptor.address, descriptor.len as usize) {
            Some(area) if area.len() == descriptor.len as usize => self.part(area),
            first => self.across(first, descriptor),
        }
    }

    /// Add a buffer that spans regions; `area` is its first piece.
    #[cold]
    fn across(&mut self, mut area: Option<M::Area>, descriptor: &Descriptor) -> Result<(), RingError> {
        let (mut address, mut left) = (descriptor.address, descriptor.len as usize);
        loop {
            let piece = area.ok_or(RingError::Address)?;
            self.work = self.work.saturating_sub(1);
            self.part(piece)?;
            left -= piece.len();
            if left == 0 {
                return Ok(());
            }
            address = address.checked_add(piece.len() as u64).ok_or(RingError::Address)?;
            area = self.memory.area(address, left);
        }
    }

    #[inline]
    fn part(&mut self, area: M::Area) -> Result<(), RingError> {
        if self.batch.parts.len() - self.first >= usize::from(u16::MAX) {
            return Err(RingError::Loop); // only when thousands of buffers each span regions
        }
        self.batch.parts.push(area);
        Ok(())
    }

    /// Add the buffers of a split ring's indirect table, which link to each other (VIRTIO 1.2 §2.7.5.3).
    #[inline]
    pub(super) fn linked_table(&mut self, of: &Descriptor) -> Result<(), RingError> {
        let entries = self.copy_table(of)?;
        let mut index = 0;
        loop {
            let descriptor = Descriptor::split(self.entry(index));
            if descriptor.flags & INDIRECT != 0 {
                return Err(RingError::TableInTable);
            }
            self.buffer(&descriptor)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(());
            }
            index = usize::from(descriptor.link);
            if index >= entries {
                return Err(RingError::Next);
            }
        }
    }

    /// Add the buffers of a packed ring's indirect table: all, in order. No flag but `WRITE` says anything there
    /// (VIRTIO 1.2 §2.8.7).
    #[inline]
    pub(super) fn flat_table(&mut self, of: &Descriptor) -> Result<(), RingError> {
        for index in 0..self.copy_table(of)? {
            self.buffer(&Descriptor::packed(self.entry(index)))?;
        }
        Ok(())
    }

    /// Copy a whole indirect table; returns its number of descriptors.
    #[inline]
    fn copy_table(&mut self, of: &Descriptor) -> Result<usize, RingError> {
        if !self.indirect {
            return Err(RingError::NoIndirect);
        }
        if of.flags & NEXT != 0 {
            return Err(RingError::TableInChain);
        }
        let len = of.len as usize;
        let entries = len / DESCRIPTOR_LEN;
        if entries == 0 || entries > usize::from(self.left) || !len.is_multiple_of(DESCRIPTOR_LEN) {
            return Err(RingError::TableLen);
        }
        self.work = self.work.saturating_sub(entries);
        if self.batch.table.len() < len {
            self.batch.table.resize(len, 0);
        }
        let (mut address, mut rest) = (of.address, &mut self.batch.table[..len]);
        while !rest.is_empty() {
            let area = self.memory.area(address, rest.len()).ok_or(RingError::Address)?;
            let (piece, later) = rest.split_at_mut(area.len());
            area.read(0, piece);
            address = address.checked_add(area.len() as u64).ok_or(RingError::Address)?;
            rest = later;
        }
        Ok(entries)
    }

    #[inline]
    fn entry(&self, index: usize) -> &[u8; DESCRIPTOR_LEN] {
        let (descriptors, _) = self.batch.table.as_chunks();
        &descriptors[index]
    }
}
