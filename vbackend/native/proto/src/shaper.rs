//! A rate limit: NetBSD's token bucket regulator (`sys/altq/altq_subr.c`, `tbr_dequeue()`).
//!
//! A frame may leave while there are tokens, and then costs its bytes. It may cost more than there are: the bucket goes
//! into debt, so a frame longer than the bucket still leaves, and the next one waits for it.
//!
//! Over every interval of `t` seconds at most `burst + rate * t` leaves, plus the one frame that went into debt. Unlike
//! `tbr_dequeue()`, which fills the bucket only when it is empty, this one is filled up to the moment of every look:
//! otherwise what a long silence earned would come on top of what was left, and two bursts could leave at once.
//!
//! The unit inside is a thousandth of a bit, which is what `bits/s` times `ms` has: nothing is rounded, nothing drifts.

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub bits_per_s: u64,
    /// The bucket's depth: what may leave at once after a silence. Less than what the rate earns between two looks
    /// is lost rate, so it should be 10 ms of it or more (a worker's clock has ticks of 4 ms).
    pub burst_bytes: u64,
}

const PER_BYTE: i64 = 8 * 1000;

/// 1 TiB; in units it leaves room for debt in an `i64`.
const MAX_BURST_BYTES: u64 = 1 << 40;

/// A token bucket. `now_ms` is any clock; one that stands still or goes back earns nothing.
#[derive(Clone, Copy, Debug)]
pub struct Shaper {
    per_ms: u64, // units earned
    depth: i64,  // units, > 0
    tokens: i64, // units, at most `depth`
    filled_ms: u64,
}

impl Shaper {
    /// A full bucket. A rate of 0 counts as 1 bit/s, a burst of 0 as 1 byte, one above 1 TiB as 1 TiB.
    #[must_use]
    pub fn new(rate: Rate, now_ms: u64) -> Shaper {
        let burst = rate.burst_bytes.clamp(1, MAX_BURST_BYTES) as i64;
        let depth = burst * PER_BYTE;
        Shaper { per_ms: rate.bits_per_s.max(1), depth, tokens: depth, filled_ms: now_ms }
    }

    /// Change the limit. What was earned stays, up to the new depth; so does debt.
    pub fn set_rate(&mut self, rate: Rate, now_ms: u64) {
        self.fill(now_ms);
        let new = Shaper::new(rate, self.filled_ms);
        *self = Shaper { tokens: self.tokens.min(new.depth), ..new };
    }

    /// Whether a frame may leave now.
    #[must_use]
    pub fn may_send(&mut self, now_ms: u64) -> bool {
        self.fill(now_ms);
        self.tokens > 0
    }

    /// For many frames at once: the next one may leave as long as fewer bytes than these have left since this call.
    /// They are yet to be spent.
    #[must_use]
    pub fn allowance(&mut self, now_ms: u64) -> u64 {
        self.fill(now_ms);
        self.tokens.max(0).unsigned_abs().div_ceil(PER_BYTE.unsigned_abs())
    }

    /// Whether no frame could leave at the last look, or after what was spent since.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens <= 0
    }

    /// Charge `bytes` that left.
    pub fn spend(&mut self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.tokens = self.tokens.saturating_sub(bytes.saturating_mul(PER_BYTE));
    }

    /// When the next frame may leave, on the clock of `now_ms`; not after the last look if it may leave now.
    #[must_use]
    pub fn ready_ms(&self) -> u64 {
        let missing = if self.tokens > 0 { 0 } else { self.tokens.abs_diff(1) };
        self.filled_ms.saturating_add(missing.div_ceil(self.per_ms))
    }

    fn fill(&mut self, now_ms: u64) {
        let earned = self.per_ms.saturating_mul(now_ms.saturating_sub(self.filled_ms));
        self.tokens = if earned < self.depth.abs_diff(self.tokens) {
            self.tokens.saturating_add_unsigned(earned)
        } else {
            self.depth
        };
        self.filled_ms = self.filled_ms.max(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 8 Mbit/s is a byte a microsecond: 1,000 bytes a tick of this clock.
    const RATE: Rate = Rate { bits_per_s: 8_000_000, burst_bytes: 10_000 };

    #[test]
    fn frames_leave_while_there_are_tokens() {
        // (clock, length of a frame that wants to leave, whether it may, when the next one may)
        let table = [
            (50, 9_999, true, 50),
            (50, 1_500, true, 52), // 1 byte was left: 1,499 of debt
            (50, 60, false, 52),
            (51, 60, false, 52),
            (52, 60, true, 52),  // 501 were there
            (52, 441, true, 53), // exactly none is not enough
            (52, 60, false, 53),
            (53, 60_000, true, 113), // longer than the bucket; a whole tick later the debt of 59,000 is paid
            (112, 60, false, 113),
            (113, 60, true, 113),
            (40, 60, true, 113),              // the clock goes back
            (500_000, 10_000, true, 500_001), // a long silence earns one burst
            (500_000, 60, false, 500_001),
        ];
        let mut shaper = Shaper::new(RATE, 50);
        for (step, (now_ms, bytes, may, ready_ms)) in table.into_iter().enumerate() {
            assert_eq!(shaper.may_send(now_ms), may, "step {step}");
            assert_eq!(shaper.allowance(now_ms) > 0, may, "step {step}");
            if may {
                shaper.spend(bytes);
            }
            assert_eq!(shaper.ready_ms(), ready_ms, "step {step}");
            assert_eq!(shaper.is_empty(), !shaper.clone().may_send(now_ms), "step {step}");
        }
    }

    #[test]
    fn an_allowance_ends_with_the_frame_that_empties_the_bucket() {
        let mut shaper = Shaper::new(RATE, 0);
        assert_eq!(shaper.allowance(0), 10_000);
        shaper.spend(9_999);
        assert_eq!(shaper.allowance(0), 1);
        shaper.spend(1_500);
        assert_eq!((shaper.allowance(0), shaper.allowance(1), shaper.allowance(2)), (0, 0, 501));
        // A fraction of a byte is a token too.
        let mut slow = Shaper::new(Rate { bits_per_s: 1, burst_bytes: 1 }, 0);
        slow.spend(1);
        assert_eq!((slow.ready_ms(), slow.allowance(0), slow.allowance(1)), (1, 0, 1));
    }

    #[test]
    fn another_rate_begins_with_the_tokens_of_the_old_one() {
        let faster = Rate { bits_per_s: 80_000_000, burst_bytes: 2_000 };
        for (spent, at_ms, left) in [(0, 0, 2_000), (9_000, 0, 1_000), (9_000, 3, 2_000), (30_000, 1, 0)] {
            let mut shaper = Shaper::new(RATE, 0);
            shaper.spend(spent);
            shaper.set_rate(faster, at_ms);
            assert_eq!(shaper.allowance(at_ms), left, "{spent} bytes spent, changed at {at_ms} ms");
        }
        let mut shaper = Shaper::new(RATE, 0);
        shaper.spend(30_000);
        shaper.set_rate(faster, 1);
        assert_eq!(shaper.ready_ms(), 1 + 2, "19,000 of debt at 10,000 a millisecond");
    }

    #[test]
    fn extremes_are_clamped() {
        let most = u64::MAX;
        for (bits_per_s, burst_bytes) in [(0, 0), (0, most), (1, 1), (most, 0), (most, most)] {
            let mut shaper = Shaper::new(Rate { bits_per_s, burst_bytes }, 0);
            assert!(shaper.may_send(0) && shaper.ready_ms() == 0);
            for _ in 0..3 {
                shaper.spend(usize::MAX);
            }
            assert!(!shaper.may_send(0) && shaper.ready_ms() > 0);
            assert!(
                shaper.may_send(most),
                "the debt of {bits_per_s} bit/s, {burst_bytes} bytes is paid in the end"
            );
            assert_eq!(shaper.allowance(most), burst_bytes.clamp(1, MAX_BURST_BYTES));
            shaper.spend(usize::MAX);
            assert_eq!(shaper.ready_ms(), most);
        }
    }
}
