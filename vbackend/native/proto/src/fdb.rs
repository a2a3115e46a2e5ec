//! The forwarding database: which port a MAC address was last seen on.
//!
//! Open addressing with linear probing, at most half full, deletion by rebuilding (rare), so a lookup is one multiply
//! and nearly always one cache line. The seed keeps guests from choosing addresses that collide.
//! `proto/tests/switch.rs` checks it against a plain map.

use crate::segment::PortId;

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// The address.
    pub mac: [u8; 6],
    /// Where it was last seen as a source.
    pub port: PortId,
    /// When that was.
    pub seen_ms: u64,
}

#[derive(Clone, Copy)]
struct Slot {
    key: u64, // the address in the low 48 bits, USED above them; 0: empty
    port: PortId,
    seen_ms: u64,
}

const USED: u64 = 1 << 48;
const EMPTY: Slot = Slot { key: 0, port: PortId(0), seen_ms: 0 };

/// Bounded, ageing table MAC → port.
pub struct Fdb {
    slots: Vec<Slot>,
    len: usize,
    max_entries: usize,
    ageing_ms: u64,
    seed: u64,
    swept_ms: u64,
}

impl Fdb {
    /// An empty table of at most `max_entries` addresses that are forgotten `ageing_ms` after they were last seen.
    #[must_use]
    pub fn new(max_entries: usize, ageing_ms: u64, seed: u64) -> Fdb {
        let capacity = (max_entries.max(1) * 2).next_power_of_two();
        Fdb { slots: vec![EMPTY; capacity], len: 0, max_entries, ageing_ms, seed: seed | 1, swept_ms: 0 }
    }

    /// Addresses in the table, aged ones included until they are swept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the table is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where `mac` was last seen, unless that is too long ago.
    #[inline]
    #[must_use]
    pub fn lookup(&self, mac: [u8; 6], now_ms: u64) -> Option<PortId> {
        let slot = &self.slots[self.find(key_of(mac))];
        (slot.key != 0 && now_ms.saturating_sub(slot.seen_ms) < self.ageing_ms).then_some(slot.port)
    }

    /// Note that `mac` was seen on `port`. A full table learns nothing new (the address stays flooded).
    #[inline]
    pub fn learn(&mut self, mac: [u8; 6], port: PortId, now_ms: u64) {
        let key = key_of(mac);
        let at = self.find(key);
        if self.slots[at].key == key {
            self.slots[at].port = port;
            self.slots[at].seen_ms = now_ms;
        } else if self.make_room(now_ms) {
            let at = self.find(key);
            self.slots[at] = Slot { key, port, seen_ms: now_ms };
            self.len += 1;
        }
    }

    /// Forget all addresses seen on `port`.
    pub fn flush_port(&mut self, port: PortId) {
        self.retain(|slot| slot.port != port);
    }

    /// All entries that are not aged, sorted by address.
    #[must_use]
    pub fn entries(&self, now_ms: u64) -> Vec<FdbEntry> {
        let fresh = |slot: &&Slot| slot.key != 0 && now_ms.saturating_sub(slot.seen_ms) < self.ageing_ms;
        let mut entries: Vec<FdbEntry> = (self.slots.iter().filter(fresh))
            .map(|slot| FdbEntry { mac: mac_of(slot.key), port: slot.port, seen_ms: slot.seen_ms })
            .collect();
        entries.sort_by_key(|entry| entry.mac);
        entries
    }

    /// The slot that holds `key`, or the empty one where it would go.
    #[inline]
    fn find(&self, key: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = self.home(key);
        while self.slots[at].key != 0 && self.slots[at].key != key {
            at = (at + 1) & mask;
        }
        at
    }

    #[inline]
    fn home(&self, key: u64) -> usize {
        let mixed = (key ^ self.seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(self.seed);
        (mixed >> 32) as usize & (self.slots.len() - 1)
    }

    /// Whether one more fits; sweeps aged entries out when full, at most once a second.
    fn make_room(&mut self, now_ms: u64) -> bool {
        if self.len >= self.max_entries && now_ms.saturating_sub(self.swept_ms) >= 1000 {
            self.swept_ms = now_ms;
            let ageing_ms = self.ageing_ms;
            self.retain(|slot| now_ms.saturating_sub(slot.seen_ms) < ageing_ms);
        }
        self.len < self.max_entries
    }

    fn retain(&mut self, keep: impl Fn(&Slot) -> bool) {
        let kept: Vec<Slot> = self.slots.iter().filter(|slot| slot.key != 0 && keep(slot)).copied().collect();
        if kept.len() == self.len {
            return;
        }
        self.slots.fill(EMPTY);
        self.len = kept.len();
        for slot in kept {
            let at = self.find(slot.key);
            self.slots[at] = slot;
        }
    }
}

#[inline]
fn key_of(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f]) | USED
}

fn mac_of(key: u64) -> [u8; 6] {
    let [_, _, a, b, c, d, e, f] = key.to_be_bytes();
    [a, b, c, d, e, f]
}
