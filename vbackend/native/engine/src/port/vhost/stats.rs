//! What `show` tells of a session's rings: written by the port's worker, read by anyone.

use std::sync::atomic::{AtomicU64, Ordering};

use super::MOST_RINGS;

/// One ring at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingInfo {
    /// It has memory and is processed while enabled.
    pub running: bool,
    /// The front-end enabled it.
    pub enabled: bool,
    /// Packed layout.
    pub packed: bool,
    /// Entries; 0: it never ran.
    pub size: u16,
    /// Wake-ups by the front-end.
    pub kicks: u64,
    /// Wake-ups of the front-end.
    pub calls: u64,
    /// Frames through it.
    pub frames: u64,
}

/// All rings of a session.
#[derive(Default)]
pub struct Stats {
    rings: [[AtomicU64; 4]; MOST_RINGS],
}

impl Stats {
    /// Show what a ring is like now.
    pub fn publish(&self, ring: usize, info: RingInfo) {
        let bits = u64::from(info.running)
            | u64::from(info.enabled) << 1
            | u64::from(info.packed) << 2
            | u64::from(info.size) << 16;
        let words = [bits, info.kicks, info.calls, info.frames];
        for (word, value) in self.rings[ring].iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// The rings, by number.
    #[must_use]
    pub fn read(&self) -> Vec<RingInfo> {
        let ring = |words: &[AtomicU64; 4]| {
            let [bits, kicks, calls, frames] = words.each_ref().map(|word| word.load(Ordering::Relaxed));
            RingInfo {
                running: bits & 1 != 0,
                enabled: bits & 2 != 0,
                packed: bits & 4 != 0,
                size: u16::try_from(bits >> 16).unwrap_or(u16::MAX),
                kicks,
                calls,
                frames,
            }
        };
        self.rings.iter().map(ring).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read() {
        let stats = Stats::default();
        let info = RingInfo {
            running: true,
            enabled: false,
            packed: true,
            size: 32_768,
            kicks: 1,
            calls: 2,
            frames: 3,
        };
        stats.publish(5, info);
        assert_eq!(stats.read()[5], info);
        assert_eq!(stats.read()[4], RingInfo::default());
    }
}
