//! The token bucket against one that lives millisecond by millisecond, and against what a rate promises.
#![allow(missing_docs, clippy::unwrap_used)]

use proptest::prelude::*;
use vbackend_proto::shaper::{Rate, Shaper};

/// Tokens in thousandths of a bit, earned one millisecond after the other.
struct Twin {
    rate: Rate,
    tokens: i128,
    now_ms: u64,
}

impl Twin {
    fn fill(&mut self, now_ms: u64) {
        while self.now_ms < now_ms {
            self.now_ms += 1;
            self.tokens = (self.tokens + i128::from(self.rate.bits_per_s)).min(depth(self.rate));
        }
    }
}

fn depth(rate: Rate) -> i128 {
    i128::from(rate.burst_bytes) * 8000
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Back(u64),
    Spend(usize),
    SpendIfAllowed(usize),
    SetRate(Rate),
}

fn rate() -> impl Strategy<Value = Rate> {
    let bits = prop_oneof![1u64..20, 1u64..1_000_000, 1_000_000u64..1_000_000_000_000];
    let bytes = prop_oneof![1u64..20, 1u64..100_000, 100_000u64..1_000_000_000];
    (bits, bytes).prop_map(|(bits_per_s, burst_bytes)| Rate { bits_per_s, burst_bytes })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..300).prop_map(Step::Wait),
        1 => (0u64..1_000).prop_map(Step::Back),
        2 => (0usize..70_000).prop_map(Step::Spend),
        4 => (14usize..70_000).prop_map(Step::SpendIfAllowed),
        1 => rate().prop_map(Step::SetRate),
    ]
}

proptest! {
    #[test]
    fn behaves_like_a_bucket_filled_every_millisecond(
        first in rate(), start_ms in 0u64..1000, steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut shaper = Shaper::new(first, start_ms);
        let mut twin = Twin { rate: first, tokens: depth(first), now_ms: start_ms };
        let mut now_ms = start_ms;
        for step in steps {
            match step {
                Step::Wait(ms) => now_ms += ms,
                Step::Back(ms) => now_ms = now_ms.saturating_sub(ms),
                Step::Spend(bytes) => {
                    shaper.spend(bytes);
                    twin.tokens -= bytes as i128 * 8000;
                }
                Step::SpendIfAllowed(bytes) => {
                    twin.fill(now_ms);
                    if shaper.may_send(now_ms) {
                        shaper.spend(bytes);
                        twin.tokens -= bytes as i128 * 8000;
                    }
                }
                Step::SetRate(rate) => {
                    shaper.set_rate(rate, now_ms);
                    twin.fill(now_ms);
                    twin.rate = rate;
                    twin.tokens = twin.tokens.min(depth(rate));
                }
            }
            twin.fill(now_ms);
            prop_assert_eq!(shaper.may_send(now_ms), twin.tokens > 0);
            prop_assert_eq!(i128::from(shaper.allowance(now_ms)), (twin.tokens.max(0) + 7999) / 8000);
            // The moment it names is the first one with tokens.
            let ready_ms = shaper.ready_ms();
            if twin.tokens <= 0 {
                prop_assert!(!shaper.clone().may_send(ready_ms - 1));
                prop_assert!(shaper.clone().may_send(ready_ms));
            } else {
                prop_assert_eq!(ready_ms, twin.now_ms);
            }
        }
    }

    /// Frames that leave whenever they may: over every interval no more than the rate, the burst and the frame that
    /// went into debt; and no less than the rate in the long run when there is always one waiting.
    #[test]
    fn keeps_what_a_rate_promises(
        bits_per_s in 8_000u64..10_000_000_000,
        frames in prop::collection::vec((14usize..70_000, 0u64..=10, any::<bool>()), 1..200),
    ) {
        let rate = Rate { bits_per_s, burst_bytes: bits_per_s.div_ceil(8 * 100) }; // 10 ms, the longest step
        let mut shaper = Shaper::new(rate, 7);
        let mut now_ms = 7;
        let mut left = Vec::new(); // (when, bytes)
        for (bytes, wait_ms, by_deadline) in frames {
            while !shaper.may_send(now_ms) {
                now_ms = if by_deadline { shaper.ready_ms() } else { now_ms + wait_ms.max(1) };
            }
            shaper.spend(bytes);
            left.push((now_ms, bytes as i128 * 8000));
        }
        let earned = |ms: u64| i128::from(ms) * i128::from(rate.bits_per_s);
        let (mut total, most) = (0, 70_000 * 8000);
        for (first, (begin_ms, _)) in left.iter().enumerate() {
            let mut sum = 0;
            for (end_ms, units) in &left[first..] {
                sum += units;
                prop_assert!(sum <= depth(rate) + earned(end_ms - begin_ms) + most);
            }
        }
        for (index, (when_ms, units)) in left.iter().enumerate() {
            // Right before this frame left: all the rate earned up to the last millisecond had been used.
            if index > 0 && *when_ms > left[index - 1].0 {
                prop_assert!(total >= depth(rate) + earned(left[index - 1].0 - 7));
            }
            total += units;
        }
    }
}
