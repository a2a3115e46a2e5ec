//! Which MAC has an IP address: learned from what guests send, bounded, aged.
//!
//! The rule it keeps: while an address is fresh it stays with the guest it was learned from. It becomes free when that
//! guest has not been heard for [`FRESH_MS`].

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;

use crate::wire::ethernet::Mac;

/// How long a guest that says nothing keeps its address.
pub const FRESH_MS: u64 = 60_000;

/// After this long without a word, whoever is sent to is asked whether it is still there (RFC 4861 `REACHABLE_TIME`).
pub const ASK_AGAIN_MS: u64 = 30_000;

/// At most one such question per this time.
const ASK_INTERVAL_MS: u64 = 1000;

const SWEEP_INTERVAL_MS: u64 = 1000;

#[derive(Clone, Copy)]
struct Entry {
    mac: Mac,
    seen_ms: u64,
    asked_ms: u64,
}

impl Entry {
    #[inline]
    fn is_fresh(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.seen_ms) < FRESH_MS
    }
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The address.
    pub address: IpAddr,
    /// Who has it.
    pub mac: Mac,
    /// When it was last heard of.
    pub seen_ms: u64,
}

/// Where to send, and whether it is time to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub mac: Mac,
    pub ask: bool,
}

/// The table.
pub(super) struct Neighbours {
    map: HashMap<IpAddr, Entry, Seed>,
    swept_ms: Option<u64>,
}

impl Neighbours {
    pub fn new() -> Neighbours {
        Neighbours { map: HashMap::with_hasher(Seed::new()), swept_ms: None }
    }

    /// Entries, aged ones included until they are swept.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Note that `mac` speaks for `address`. Returns whether no other guest has it; in a table that holds `limit`
    /// entries already the address is free but not remembered.
    #[inline]
    pub fn learn(&mut self, address: IpAddr, mac: Mac, now_ms: u64, limit: usize) -> bool {
        match self.map.get_mut(&address) {
            Some(entry) if entry.mac == mac => {
                entry.seen_ms = now_ms;
                true
            }
            Some(entry) if entry.is_fresh(now_ms) => false,
            Some(entry) => {
                *entry = Entry { mac, seen_ms: now_ms, asked_ms: now_ms };
                true
            }
            None => {
                self.insert(address, mac, now_ms, limit);
                true
            }
        }
    }

    fn insert(&mut self, address: IpAddr, mac: Mac, now_ms: u64, limit: usize) {
        let swept = self.swept_ms.is_some_and(|swept_ms| now_ms.saturating_sub(swept_ms) < SWEEP_INTERVAL_MS);
        if self.map.len() >= limit && !swept {
            self.swept_ms = Some(now_ms);
            self.map.retain(|_, entry| entry.is_fresh(now_ms));
        }
        if self.map.len() < limit {
            let entry = Entry { mac, seen_ms: now_ms, asked_ms: now_ms };
            self.map.insert(address, entry);
        }
    }

    /// Who has `address`.
    pub fn lookup(&self, address: IpAddr, now_ms: u64) -> Option<Mac> {
        let entry = self.map.get(&address)?;
        entry.is_fresh(now_ms).then_some(entry.mac)
    }

    /// Who has `address`, for sending; notes it when the answer says to ask.
    #[inline]
    pub fn route(&mut self, address: IpAddr, now_ms: u64) -> Option<Route> {
        let entry = self.map.get_mut(&address)?;
        if !entry.is_fresh(now_ms) {
            return None;
        }
        let ask = now_ms.saturating_sub(entry.seen_ms) >= ASK_AGAIN_MS
            && now_ms.saturating_sub(entry.asked_ms) >= ASK_INTERVAL_MS;
        if ask {
            entry.asked_ms = now_ms;
        }
        Some(Route { mac: entry.mac, ask })
    }

    /// All fresh entries, sorted by address.
    pub fn entries(&self, now_ms: u64) -> Vec<Neighbour> {
        let fresh = self.map.iter().filter(|(_, entry)| entry.is_fresh(now_ms));
        let mut entries: Vec<Neighbour> = fresh
            .map(|(address, entry)| Neighbour { address: *address, mac: entry.mac, seen_ms: entry.seen_ms })
            .collect();
        entries.sort_by_key(|entry| entry.address);
        entries
    }

    pub fn clear(&mut self) {
        self.map.clear();
    }
}

/// Hashing of addresses: a multiplication per word, as there are two look-ups per packet. The table is small, so that
/// addresses chosen to collide cost little, and the seed makes them hard to choose.
#[derive(Clone)]
struct Seed(u64);

impl Seed {
    fn new() -> Seed {
        Seed(RandomState::new().hash_one(0))
    }
}

impl BuildHasher for Seed {
    type Hasher = Mixer;

    #[inline]
    fn build_hasher(&self) -> Mixer {
        Mixer(self.0)
    }
}

struct Mixer(u64);

impl Hasher for Mixer {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_ne_bytes(word));
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }

    #[inline]
    fn write_usize(&mut self, _: usize) {} // lengths and discriminants say nothing that the octets do not

    #[inline]
    fn write_isize(&mut self, _: isize) {}

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const A: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 0xb]);

    fn ip(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 7, 0, last).into()
    }

    #[test]
    fn an_address_stays_with_its_guest_while_that_is_heard() {
        let mut table = Neighbours::new();
        assert!(table.learn(ip(1), A, 0, 8));
        assert!(!table.learn(ip(1), B, FRESH_MS - 1, 8));
        assert_eq!(table.lookup(ip(1), FRESH_MS - 1), Some(A));
        assert!(table.learn(ip(1), A, FRESH_MS - 1, 8));
        assert!(!table.learn(ip(1), B, FRESH_MS, 8));
        assert_eq!(table.lookup(ip(1), 2 * FRESH_MS - 1), None);
        assert!(table.learn(ip(1), B, 2 * FRESH_MS - 1, 8));
        assert_eq!(table.lookup(ip(1), 2 * FRESH_MS), Some(B));
    }

    #[test]
    fn a_full_table_makes_room_only_of_aged_entries() {
        let mut table = Neighbours::new();
        for last in 0..4 {
            table.learn(ip(last), A, u64::from(last) * 1000, 4);
        }
        assert!(table.learn(ip(9), A, 5000, 4), "nobody else has it");
        assert_eq!((table.lookup(ip(9), 5000), table.len()), (None, 4));
        table.learn(ip(9), A, FRESH_MS + 1000, 4);
        assert_eq!((table.lookup(ip(9), FRESH_MS + 1000), table.len()), (Some(A), 3));
        let left: Vec<IpAddr> = (table.entries(FRESH_MS + 1000).iter()).map(|entry| entry.address).collect();
        assert_eq!(left, [ip(2), ip(3), ip(9)]);
    }

    #[test]
    fn a_silent_guest_is_asked_once_a_second() {
        let mut table = Neighbours::new();
        table.learn(ip(1), A, 0, 8);
        // (time, route: whether to ask)
        for (now_ms, expected) in [
            (0, Some(false)),
            (ASK_AGAIN_MS - 1, Some(false)),
            (ASK_AGAIN_MS, Some(true)),
            (ASK_AGAIN_MS + 999, Some(false)),
            (ASK_AGAIN_MS + 1000, Some(true)),
            (FRESH_MS - 1, Some(true)),
            (FRESH_MS, None),
        ] {
            assert_eq!(table.route(ip(1), now_ms).map(|route| route.ask), expected, "at {now_ms}");
        }
    }
}
