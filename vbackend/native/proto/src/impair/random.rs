//! Random numbers that a seed repeats: SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators",
//! 2014), one stream for each kind of decision.

/// What the state grows by: 2^64 divided by the golden ratio.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// An endless stream of numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Stream number `stream` of a seed. Streams of one seed, and equal streams of other seeds, have nothing in common.
    #[must_use]
    pub fn new(seed: u64, stream: u64) -> Random {
        Random(mix(mix(seed.wrapping_add(GAMMA)).wrapping_add(stream.wrapping_mul(GAMMA))))
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// The next number, below `limit` (0 for 0).
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(limit)) >> 64) as u64
    }
}

fn mix(state: u64) -> u64 {
    let state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ state >> 31
}

/// How likely something is, in steps of 2^-53.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probability(u64);

impl Probability {
    const ONE: u64 = 1 << 53;

    /// Never.
    pub const NEVER: Probability = Probability(0);

    /// From 0 to 1; None: it is neither.
    #[must_use]
    pub fn new(value: f64) -> Option<Probability> {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 2^53, which is exact"
        )]
        (0.0..=1.0).contains(&value).then(|| Probability((value * Probability::ONE as f64).round() as u64))
    }

    /// Whether it is 0.
    #[must_use]
    pub fn is_never(self) -> bool {
        self.0 == 0
    }

    /// Whether it happens this time. Always draws one number.
    pub fn happens(self, random: &mut Random) -> bool {
        random.next_u64() >> 11 < self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        // The first numbers for seed 1234567, as Rosetta Code and the reference implementation have them.
        let mut random = Random(1_234_567);
        let numbers: Vec<u64> = (0..3).map(|_| random.next_u64()).collect();
        assert_eq!(
            numbers,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn streams_differ_and_repeat() {
        let first = |seed, stream| Random::new(seed, stream).next_u64();
        let mut all: Vec<u64> =
            (0..100).flat_map(|seed| (0..8).map(move |stream| first(seed, stream))).collect();
        assert_eq!(first(7, 3), first(7, 3));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 800);
    }

    #[test]
    fn numbers_below_a_limit_are_evenly_spread() {
        let mut random = Random::new(1, 1);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[usize::try_from(random.below(7)).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 500), "{counts:?}");
        assert_eq!((random.below(0), random.below(1)), (0, 0));
    }

    #[test]
    fn never_is_never_and_always_is_always() {
        let mut random = Random::new(1, 1);
        for (value, expected) in
            [(0.0, Some(0)), (1.0, Some(1000)), (-0.1, None), (1.1, None), (f64::NAN, None)]
        {
            let found = Probability::new(value)
                .map(|probability| (0..1000).filter(|_| probability.happens(&mut random)).count());
            assert_eq!(found, expected, "{value}");
        }
        assert!(Probability::NEVER.is_never() && !Probability::new(1e-9).unwrap().is_never());
    }
}
