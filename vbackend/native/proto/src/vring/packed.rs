//! The packed layout (VIRTIO 1.2 §2.8): one ring of descriptors, which driver and device overwrite in turn.

use super::chain::{DESCRIPTOR_LEN, INDIRECT, NEXT, WRITE, Walk};
use super::resume::{NOWHERE, gap, give_back, resume};
use super::{Area, Areas, Batch, Chain, Config, Direction, Memory, RingError};

/// Of a used descriptor: length, id and flags, behind the address (§2.8.13).
pub(super) const LEN: usize = 8;
pub(super) const FLAGS: usize = 14;

/// `VIRTQ_DESC_F_AVAIL`.
const AVAIL: u16 = 1 << 7;
/// `VIRTQ_DESC_F_USED`.
const USED: u16 = 1 << 15;

// An event suppression structure (§2.8.14): position, then what is wanted.
pub(super) const EVENT_POSITION: usize = 0;
const EVENT_FLAGS: usize = 2;

/// `RING_EVENT_FLAGS_ENABLE`.
const EVENT_ENABLE: u16 = 0;
/// `RING_EVENT_FLAGS_DISABLE`.
const EVENT_DISABLE: u16 = 1;
/// `RING_EVENT_FLAGS_DESC`: for the descriptor at the position.
const EVENT_DESC: u16 = 2;

/// A slot, and the wrap counter, which is inverted each time round (§2.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) slot: u16,
    pub(super) wrap: bool,
}

impl Position {
    /// From bits 0 to 14 and bit 15, as in event structures and ring bases.
    #[inline]
    pub(super) fn from_bits(bits: u16) -> Position {
        Position { slot: bits & 0x7fff, wrap: bits >> 15 == 1 }
    }

    #[inline]
    pub(super) fn bits(self) -> u16 {
        self.slot | u16::from(self.wrap) << 15
    }

    /// This, `slots` further on; at most `size`.
    #[inline]
    pub(super) fn after(self, slots: u16, size: u16) -> Position {
        match self.slot + slots {
            slot if slot >= size => Position { slot: slot - size, wrap: !self.wrap },
            slot => Position { slot, ..self },
        }
    }

    /// This, `slots` back; at most `size`.
    #[inline]
    pub(super) fn before(self, slots: u16, size: u16) -> Position {
        match self.slot.checked_sub(slots) {
            Some(slot) => Position { slot, ..self },
            None => Position { slot: self.slot + size - slots, wrap: !self.wrap },
        }
    }

    /// Slots from here on to `other`: less than twice the size, since each slot is passed with both wrap counters.
    #[inline]
    pub(super) fn until(self, other: Position, size: u16) -> u32 {
        let lap = if self.wrap == other.wrap { 0 } else { u32::from(size) };
        (u32::from(other.slot) + lap + 2 * u32::from(size) - u32::from(self.slot)) % (2 * u32::from(size))
    }

    /// Whether a descriptor with these flags is available here.
    #[inline]
    pub(super) fn is_available(self, flags: u16) -> bool {
        flags & (AVAIL | USED) == if self.wrap { AVAIL } else { USED }
    }

    /// Whether a descriptor with these flags was used here.
    #[inline]
    pub(super) fn is_used(self, flags: u16) -> bool {
        flags & (AVAIL | USED) == if self.wrap { AVAIL | USED } else { 0 }
    }

    /// Length, id and flags of a descriptor that is used here. `WRITE` says that the length counts (§2.8.4).
    #[inline]
    pub(super) fn used_element(self, id: u16, len: u32) -> u64 {
        let flags = if self.wrap { AVAIL | USED } else { 0 } | if len > 0 { WRITE } else { 0 };
        u64::from(len) | u64::from(id) << 32 | u64::from(flags) << 48
    }
}

/// A packed virtqueue.
#[derive(Debug)]
pub struct Packed<A> {
    areas: Areas<A>,
    config: Config,
    avail: Position,                   // of the next descriptor to fetch
    used: Position,                    // of the next one to complete; also in shared memory
    held: u16,                         // slots between the two
    passed: Option<u32>,               // slots completed since a call was last considered; None: it never was
    wish: Option<u16>,                 // what the flags say to the driver
    told: bool,                        // the device area was written, but for a completion
    gap: Option<(Position, Position)>, // slots that came back before their time: once `used` is at the first, pass over them
}

impl<A: Area> Packed<A> {
    /// Start where a device died on the ring, else at the used position of `base`, or at its available one when it has no
    /// other: DPDK's virtio-user sends the low half only, QEMU both. User-mode Linux says 0 of new rings, whose wrap counters are 1 (§2.8.1); a ring
    /// that is truly there has just finished a lap with the counter 1, and what was used on it is marked so.
    pub(super) fn new(config: Config, areas: Areas<A>, base: u32) -> Result<Packed<A>, RingError> {
        let (low, high) = (base as u16, (base >> 16) as u16);
        let mut used = Position::from_bits(if high == 0 { low } else { high });
        let flags = |slot| areas.descriptors.load(place(Position { slot, wrap: true }) + FLAGS);
        used.wrap |= base == 0 && (0..config.size).all(|slot| flags(slot) & USED == 0);
        if used.slot >= config.size {
            return Err(RingError::Base);
        }
        let said = used;
        let used = resume(&areas, config.size).unwrap_or(said);
        let gap = gap(&areas, config.size, used, said);
        let mut ring =
            Packed { areas, config, avail: used, used, held: 0, passed: None, wish: None, told: false, gap };
        areas.device.store(EVENT_POSITION, used.bits());
        ring.pass_gap();
        Ok(ring)
    }

    /// Go on behind the gap, if all before it is done. (What is held then is a lie: the gap was made available.)
    #[inline]
    fn pass_gap(&mut self) {
        if let Some((from, to)) = self.gap.take_if(|(from, _)| *from == self.used)
            && self.held == 0
        {
            (self.avail, self.used) = (to, to);
            self.passed = self.passed.map(|passed| passed.saturating_add(from.until(to, self.config.size)));
            self.areas.device.store(EVENT_POSITION, to.bits());
        }
    }

    pub(super) fn set_areas(&mut self, areas: Areas<A>) {
        self.areas = areas;
    }

    #[inline]
    pub(super) fn fetch<M: Memory<Area = A>>(
        &mut self,
        memory: &M,
        direction: Direction,
        most: usize,
        batch: &mut Batch<A>,
    ) -> Result<usize, RingError> {
        let mut walk = Walk::new(memory, direction, &self.config, most, batch);
        let mut taken = 0;
        while taken < most && walk.goes_on() {
            let flags = self.areas.descriptors.load(place(self.avail) + FLAGS);
            if !self.avail.is_available(flags) {
                break;
            }
            if self.held == self.config.size {
                return Err(RingError::Jump);
            }
            let slots = walk.chain(|walk| self.collect(walk, flags))?;
            self.avail = self.avail.after(slots, self.config.size);
            self.held += slots;
            taken += 1;
        }
        Ok(taken)
    }

    /// Walk the chain whose first descriptor has `flags`. An indirect descriptor stands alone (§2.8.19).
    ///
    /// The driver makes the first descriptor available last, so the others' flags tell nothing but how the chain goes on.
    #[inline]
    fn collect<M: Memory<Area = A>>(
        &self,
        walk: &mut Walk<'_, M>,
        flags: u16,
    ) -> Result<(u16, u16), RingError> {
        let mut at = self.avail;
        let mut descriptor = walk.packed(self.areas.descriptors, at.slot);
        descriptor.flags = flags; // those that were looked at, not what they may have become
        if flags & INDIRECT != 0 {
            walk.flat_table(&descriptor)?;
            return Ok((descriptor.link, 1));
        }
        let mut slots = 1;
        loop {
            walk.buffer(&descriptor)?;
            if descriptor.flags & NEXT == 0 {
                return Ok((descriptor.link, slots)); // the id is in the last one (§2.8.6)
            }
            if slots == self.config.size - self.held {
                return Err(RingError::Loop);
            }
            slots += 1;
            at = at.after(1, self.config.size);
            descriptor = walk.packed(self.areas.descriptors, at.slot);
            if descriptor.flags & INDIRECT != 0 {
                return Err(RingError::TableInChain);
            }
        }
    }

    #[inline]
    pub(super) fn rewind(&mut self, chains: &[Chain]) {
        let slots = chains.iter().map(|chain| chain.slots).sum();
        debug_assert!(slots <= self.held);
        self.avail = self.avail.before(slots, self.config.size);
        self.held -= slots;
    }

    #[inline]
    pub(super) fn complete(&mut self, chains: &[Chain], lens: &[u32]) {
        let ([first, ..], [first_len, ..]) = (chains, lens) else { return };
        let size = self.config.size;
        let slots = chains.iter().map(|chain| chain.slots).sum();
        debug_assert!(slots <= self.held);
        let end = self.used.after(slots, size);
        let mut at = end;
        let others = chains.iter().zip(lens).skip(1).rev().map(|(chain, len)| {
            at = at.before(chain.slots, size);
            (at, at.used_element(chain.id, *len))
        });
        give_back(
            &self.areas,
            size,
            (self.used, slots),
            self.used.used_element(first.id, *first_len),
            others,
        );
        self.used = end;
        self.held -= slots;
        self.passed = self.passed.map(|passed| passed.saturating_add(slots.into()));
        self.pass_gap();
    }

    #[inline]
    pub(super) fn take_call<M: Memory<Area = A>>(&mut self, memory: &M) -> bool {
        let passed = self.passed.replace(0);
        if passed == Some(0) {
            return false;
        }
        memory.fence(); // the driver may be going to sleep: it stores its wish, then looks for used descriptors
        match self.areas.driver.load(EVENT_FLAGS) & 3 {
            EVENT_DISABLE => false,
            EVENT_DESC if self.config.event_idx => {
                let event = Position::from_bits(self.areas.driver.load(EVENT_POSITION));
                passed.is_none_or(|passed| self.has_passed(event, passed))
            }
            _ => true,
        }
    }

    /// Whether `event` is among the last `passed` slots; a position that does not exist is, too.
    #[inline]
    fn has_passed(&self, event: Position, passed: u32) -> bool {
        let size = self.config.size;
        event.slot >= size
            || passed >= 2 * u32::from(size)
            || (1..=passed).contains(&event.until(self.used, size)) // 0: it is the next one
    }

    /// The position in memory is the one to be kicked at only when nothing is held; else any kick will do.
    #[inline]
    pub(super) fn enable_kicks<M: Memory<Area = A>>(&mut self, memory: &M) -> bool {
        self.tell(if self.config.event_idx && self.held == 0 { EVENT_DESC } else { EVENT_ENABLE });
        memory.fence(); // the driver makes a descriptor available, then looks whether to kick
        self.avail.is_available(self.areas.descriptors.load(place(self.avail) + FLAGS))
    }

    #[inline]
    pub(super) fn disable_kicks(&mut self) {
        self.tell(EVENT_DISABLE);
    }

    #[inline]
    fn tell(&mut self, wish: u16) {
        if self.wish.replace(wish) != Some(wish) {
            self.areas.device.store(EVENT_FLAGS, wish);
            self.told = true;
        }
    }

    #[inline]
    pub(super) fn take_told(&mut self) -> bool {
        std::mem::take(&mut self.told)
    }

    /// Whoever is next gets all kicks, until it says what it wants. With a gap ahead, it finds the ring as after a death.
    pub(super) fn stop(&mut self) {
        self.tell(EVENT_ENABLE);
        if self.gap.is_none() {
            self.areas.device.store(EVENT_POSITION, NOWHERE);
            self.told = true;
        }
    }

    pub(super) fn base(&self) -> u32 {
        let at = self.gap.map_or(self.used, |(_, to)| to);
        let bits = u32::from(at.bits());
        bits << 16 | bits
    }

    pub(super) fn size(&self) -> u16 {
        self.config.size
    }
}

/// Where the descriptor at a position lies.
#[inline]
pub(super) fn place(at: Position) -> usize {
    DESCRIPTOR_LEN * usize::from(at.slot)
}
