//! A hierarchical timer wheel (Varghese and Lauck, SOSP 1987): many timers, each set and taken in constant time.
//!
//! ```text
//!   level 0   64 slots of one tick: the block of 64 ticks that the clock is in
//!   level 1   64 slots of 64 ticks: the block of 4,096 that it is in
//!   level 2   ...                   a level is made when a timer needs it
//! ```
//!
//! A timer is on the level of the highest digit (of base 64) in which its time differs from the clock. When the clock
//! comes to a slot of a higher level, its timers move down. Each slot knows its earliest timer, so the wheel knows when
//! the next one is due, and never needs to be looked at for nothing.
//!
//! Timers of equal times come out in the order they were set: a slot is a list, moved down from its front, and whoever
//! is set later for the same time finds the earlier one moved already, or meets it in the same slot.

const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
const NONE: u32 = u32::MAX;

/// Timers that stay allocated when the wheel becomes empty.
const KEPT: usize = 1024;

/// Timers with a value each, on any clock.
#[derive(Debug)]
pub struct Wheel<T> {
    levels: Vec<Level>,
    nodes: Vec<Node<T>>,
    free: u32, // a list of unused nodes
    len: usize,
    clock: u64, // not after any timer
}

#[derive(Debug)]
struct Level {
    used: u64, // a bit for each slot that has timers
    slots: [Slot; SLOTS],
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    first: u32,
    last: u32,
    earliest: u64,
}

#[derive(Clone, Copy, Debug)]
struct Node<T> {
    due: u64,
    next: u32,
    value: T,
}

impl<T> Default for Wheel<T> {
    fn default() -> Wheel<T> {
        Wheel { levels: Vec::new(), nodes: Vec::new(), free: NONE, len: 0, clock: 0 }
    }
}

impl<T: Copy> Wheel<T> {
    /// How many timers are set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Set a timer. One for a time that is over is due with those of the clock's time, behind them.
    pub fn insert(&mut self, now: u64, due: u64, value: T) {
        if self.len == 0 {
            self.clock = self.clock.max(now);
        }
        let node = Node { due: due.max(self.clock), next: NONE, value };
        let index = match self.free {
            NONE => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
            }
            free => {
                self.free = self.nodes[free as usize].next;
                self.nodes[free as usize] = node;
                free
            }
        };
        self.len += 1;
        self.place(index);
    }

    /// When the first timer is due.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.first_slot().map(|(level, slot)| self.levels[level].slots[slot].earliest)
    }

    /// The first timer if it is due.
    pub fn peek(&mut self, now: u64) -> Option<&T> {
        let slot = self.due_slot(now)?;
        Some(&self.nodes[self.levels[0].slots[slot].first as usize].value)
    }

    /// Take the first timer if it is due.
    pub fn pop(&mut self, now: u64) -> Option<T> {
        let slot = self.due_slot(now)?;
        let level = &mut self.levels[0];
        let index = level.slots[slot].first;
        let node = &mut self.nodes[index as usize];
        let (value, next) = (node.value, node.next);
        level.slots[slot].first = next;
        if next == NONE {
            level.used &= !(1 << slot);
        }
        node.next = self.free;
        self.free = index;
        self.len -= 1;
        if self.len == 0 {
            self.clear();
        }
        Some(value)
    }

    /// Forget all timers.
    pub fn clear(&mut self) {
        self.levels.iter_mut().for_each(|level| level.used = 0);
        self.nodes.clear();
        self.nodes.shrink_to(KEPT);
        self.free = NONE;
        self.len = 0;
    }

    /// All slots of lower levels are earlier than those of higher ones, and of a level the first ones are.
    fn first_slot(&self) -> Option<(usize, usize)> {
        let level = self.levels.iter().position(|level| level.used != 0)?;
        Some((level, self.levels[level].used.trailing_zeros() as usize))
    }

    /// The slot of level 0 whose timers are due, after moving down what the clock has come to.
    fn due_slot(&mut self, now: u64) -> Option<usize> {
        loop {
            let (level, slot) = self.first_slot()?;
            let Slot { first, earliest, .. } = self.levels[level].slots[slot];
            if earliest > now {
                return None;
            }
            self.clock = earliest;
            if level == 0 {
                return Some(slot);
            }
            self.levels[level].used &= !(1 << slot);
            let mut index = first;
            while index != NONE {
                let next = std::mem::replace(&mut self.nodes[index as usize].next, NONE);
                self.place(index);
                index = next;
            }
        }
    }

    /// Append a node to its slot.
    fn place(&mut self, index: u32) {
        let due = self.nodes[index as usize].due;
        let level = ((due ^ self.clock) | 1).ilog2() / DIGIT_BITS;
        let slot = ((due >> (level * DIGIT_BITS)) % SLOTS as u64) as usize;
        while self.levels.len() <= level as usize {
            let empty = Slot { first: NONE, last: NONE, earliest: 0 };
            self.levels.push(Level { used: 0, slots: [empty; SLOTS] });
        }
        let level = &mut self.levels[level as usize];
        let entry = &mut level.slots[slot];
        if level.used & 1 << slot == 0 {
            *entry = Slot { first: index, last: index, earliest: due };
            level.used |= 1 << slot;
        } else {
            self.nodes[entry.last as usize].next = index;
            entry.last = index;
            entry.earliest = entry.earliest.min(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(wheel: &mut Wheel<u32>, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| wheel.pop(now)).collect()
    }

    #[test]
    fn equal_times_keep_their_order_across_levels() {
        let mut wheel = Wheel::default();
        wheel.insert(0, 5_000, 1); // two levels up
        wheel.insert(0, 4_990, 2);
        assert_eq!(drain(&mut wheel, 4_995), [2]);
        wheel.insert(4_995, 5_000, 3); // by now on level 0
        wheel.insert(4_995, 4_000, 4); // over: at the clock's time
        assert_eq!((wheel.next_due(), wheel.len()), (Some(4_990), 3));
        assert_eq!(wheel.peek(4_999), Some(&4));
        assert_eq!(drain(&mut wheel, 4_999), [4]);
        assert_eq!(drain(&mut wheel, 5_000), [1, 3]);
        assert!(wheel.is_empty() && wheel.next_due().is_none() && wheel.peek(u64::MAX).is_none());
    }

    #[test]
    fn the_next_time_is_exact_at_every_distance() {
        for bits in 0..63 {
            let (now, due) = (1_000_003, 1_000_003 + (1 << bits));
            let mut wheel = Wheel::default();
            wheel.insert(now, due + 7, 2);
            wheel.insert(now, due, 1);
            assert_eq!((wheel.next_due(), wheel.pop(due - 1)), (Some(due), None));
            assert_eq!(drain(&mut wheel, due + 7), [1, 2]);
        }
        let mut wheel = Wheel::default();
        wheel.insert(u64::MAX - 1, u64::MAX, 9);
        assert_eq!(drain(&mut wheel, u64::MAX), [9]);
    }

    #[test]
    fn memory_of_a_crowd_is_given_back() {
        let mut wheel = Wheel::default();
        (0..100_000).for_each(|value| wheel.insert(0, u64::from(value), value));
        assert_eq!(drain(&mut wheel, 200_000).len(), 100_000);
        assert!(wheel.nodes.capacity() <= KEPT);
        wheel.insert(200_000, 200_001, 1);
        wheel.clear();
        assert!(wheel.is_empty() && wheel.pop(u64::MAX).is_none());
    }
}
