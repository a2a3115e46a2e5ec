//! Where a packed ring goes on when its device died. The specification has no number for that, and the base that the
//! front-end knows is the one of the last orderly stop.
//!
//! So the device keeps its next used position in the device event area. A driver looks there only while flags say
//! `DESC`, and then the position has to be that of the next chain it makes available: the same, while none is held.
//!
//! A batch is returned in an order that tells a death between any two stores:
//!
//! ```text
//!  1  the first head's address becomes a mark, with the batch's slots    a used descriptor's address is unused (§2.8.5)
//!  2  the position moves behind the batch
//!  3  the other heads become used, the last one first
//!  4  the first head becomes used                                        the driver sees all of them (§2.8.9)
//! ```
//!
//! A mark in a head that is still available is a batch cut short: the successor returns its chains empty. The driver
//! has seen nothing of it, so all of it is as it was left. Without such a mark the position is right as it is.
//!
//! Only stores of one thread are ordered here, as memory shows them after its death; the driver needs the last only.
//!
//! Meanwhile QEMU may have emptied the ring of a guest that transmits, from the base that it knows, though others wait
//! before it; it moves the base along (hw/virtio/virtio.c, virtqueue_packed_drop_all). That leaves a [`gap`].

use std::sync::atomic::{Ordering, compiler_fence};

use super::chain::{DESCRIPTOR_LEN, NEXT};
use super::packed::{EVENT_POSITION, FLAGS, LEN, Position, place};
use super::{Area, Areas};

/// What a mark has instead of an address; no guest has memory there. The slots are in the low 16 bits.
const MARK: u64 = 0xffff_ffff_ffff_0000;
const ID: usize = 12;

/// A position that says that nobody died. (Rings of 32768 have it; then what is around it decides.)
pub(super) const NOWHERE: u16 = 0x7fff;

/// Return a batch of `slots` slots: the descriptor `first` becomes used as `element` says, and the others before it,
/// which come in order from the last to the second.
#[inline]
pub(super) fn give_back<A: Area>(
    areas: &Areas<A>,
    size: u16,
    (first, slots): (Position, u16),
    element: u64,
    others: impl Iterator<Item = (Position, u64)>,
) {
    let descriptors = areas.descriptors;
    descriptors.write(place(first), &(MARK | u64::from(slots)).to_le_bytes());
    areas.device.store(EVENT_POSITION, first.after(slots, size).bits());
    for (at, element) in others {
        compiler_fence(Ordering::SeqCst);
        descriptors.write(place(at) + LEN, &element.to_le_bytes());
    }
    descriptors.write(place(first) + LEN, &element.to_le_bytes()[..FLAGS - LEN]);
    descriptors.store(place(first) + FLAGS, (element >> 48) as u16);
}

/// Where a device died on this ring, after what it had begun to return was returned. None: it is a new ring, or one that
/// was stopped in order, or somebody else served it since.
pub(super) fn resume<A: Area>(areas: &Areas<A>, size: u16) -> Option<Position> {
    let ring = Ring { descriptors: areas.descriptors, size };
    let at = Position::from_bits(areas.device.load(EVENT_POSITION));
    if at.slot >= size {
        return None;
    }
    if let Some((first, slots)) = ring.cut_short(at) {
        let heads = ring.heads(first, slots);
        let element = |(at, id): &(Position, u16)| (*at, at.used_element(*id, 0));
        give_back(areas, size, (first, slots), element(&heads[0]).1, heads[1..].iter().rev().map(element));
        return Some(first.after(slots, size));
    }
    ring.is_left_at(at).then_some(at)
}

/// Slots behind chains that wait, which somebody returned to the driver already: where they begin, and what follows. That
/// is `base`, if there are any at all. `at`: where the ring goes on.
pub(super) fn gap<A: Area>(
    areas: &Areas<A>,
    size: u16,
    at: Position,
    base: Position,
) -> Option<(Position, Position)> {
    let ring = Ring { descriptors: areas.descriptors, size };
    let (mut from, mut left) = (at, size);
    while left > 0 && from.is_available(ring.flags(from)) {
        let len = ring.chain_len(from, left);
        (from, left) = (from.after(len, size), left - len);
    }
    let reaches_base = (1..=u32::from(left)).contains(&from.until(base, size));
    (reaches_base && from.is_used(ring.flags(from))).then_some((from, base))
}

struct Ring<A> {
    descriptors: A,
    size: u16,
}

impl<A: Area> Ring<A> {
    fn flags(&self, at: Position) -> u16 {
        self.descriptors.load(place(at) + FLAGS)
    }

    /// A batch that was not returned as a whole, by its first slot and its size. The position is before or behind it.
    fn cut_short(&self, at: Position) -> Option<(Position, u16)> {
        (0..=self.size).find_map(|back| {
            let first = at.before(back, self.size);
            let mut address = [0; 8];
            self.descriptors.read(place(first), &mut address);
            let mark = u64::from_le_bytes(address);
            let slots = mark as u16;
            let is_one = mark & MARK == MARK && (1..=self.size).contains(&slots);
            (is_one && (back == 0 || back == slots) && first.is_available(self.flags(first)))
                .then_some((first, slots))
        })
    }

    /// The heads in these slots, with the ids of their chains; at least one. Behind the first used one all are used.
    fn heads(&self, first: Position, slots: u16) -> Vec<(Position, u16)> {
        let (mut heads, mut past, mut used) = (Vec::new(), 0, false);
        while past < slots {
            let at = first.after(past, self.size);
            let is_used = past > 0 && at.is_used(self.flags(at));
            used |= is_used;
            let len = if used { 1 } else { self.chain_len(at, slots - past) };
            if is_used || !used {
                let last = at.after(len - 1, self.size);
                heads.push((at, self.descriptors.load(place(last) + ID))); // the id is in the last one (§2.8.6)
            }
            past += len;
        }
        heads
    }

    /// Slots of the chain at `at`; at most `most`, which is at least 1.
    fn chain_len(&self, at: Position, most: u16) -> u16 {
        let ends = |len: &u16| self.flags(at.after(len - 1, self.size)) & NEXT == 0;
        (1..most).find(ends).unwrap_or(most)
    }

    /// Whether what is around a position shows that all before it was used in its lap, and nothing from it on.
    fn is_left_at(&self, at: Position) -> bool {
        let flags = self.flags(at);
        if at.is_used(flags) {
            return false; // somebody went on from here
        }
        // A chain is there, or is being written: its first descriptor becomes available last.
        let next = at.after(1, self.size);
        let waits = at.is_available(flags) || next.is_available(self.flags(next));
        for back in 1..=self.size {
            let before = at.before(back, self.size);
            let flags = self.flags(before);
            if before.is_used(flags) {
                return !self.is_untouched(before);
            }
            if !before.is_available(flags) {
                // It was made available once more; then all between here and there is, unless somebody returned it.
                let again = before.after(self.size, self.size);
                return waits && (again.is_available(flags) || again.is_used(flags));
            } // else it is not the first of its chain
        }
        false
    }

    /// Whether no driver ever wrote there: it looks as if used in a lap with the counter 0.
    fn is_untouched(&self, at: Position) -> bool {
        let mut raw = [0; DESCRIPTOR_LEN];
        self.descriptors.read(place(at), &mut raw);
        raw == [0; DESCRIPTOR_LEN]
    }
}
