//! What a bad line does to frames: loss, corruption, duplicates, delay, jitter, another order.
//!
//! ```text
//!   frame ──► lost? ──► a bit flipped? ──► twice? ──► on its way for delay ± jitter, or sent at once ──► out
//! ```
//!
//! Every decision has a stream of random numbers of its own, and every frame draws from all of them, whatever is in
//! force and whatever else happens to it. So frame n meets the same fate for the same seed, whatever the time, the batches,
//! and the other decisions are.
//!
//! The semantics are those of Linux' netem (`net/sched/sch_netem.c`) but for: frames do not overtake each other because
//! of jitter unless that is asked for; a flipped bit is never one of the Ethernet header; a duplicate is a copy of the
//! frame that arrives, right behind it.

mod line;
mod random;
pub mod wheel;

pub use self::line::{Batch, Line};
pub use self::random::{Probability, Random};
use crate::framing::MIN_FRAME;
use crate::queue::Limits;
use crate::vnet::VnetHeader;

/// The longest delay: an hour.
pub const MAX_DELAY_US: u64 = 3_600_000_000;

/// Which frames are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Each one alone.
    Independent(Probability),
    /// Gilbert-Elliott: a line that is good or bad by turns (netem's `gemodel`). It begins good.
    Gilbert {
        /// From good to bad, after a frame (p).
        to_bad: Probability,
        /// From bad to good, after a frame (r); the mean stay is 1/r frames.
        to_good: Probability,
        /// Of loss while it is good (1-k).
        in_good: Probability,
        /// Of loss while it is bad (1-h).
        in_bad: Probability,
    },
}

/// What is to happen to frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long each is on its way.
    pub delay_us: u64,
    /// Up to so much longer or shorter, uniformly; at most the delay.
    pub jitter_us: u64,
    /// Whether jitter lets frames overtake each other. Else one waits for the one before it.
    pub overtake: bool,
    /// Which are lost.
    pub loss: Loss,
    /// How many arrive twice.
    pub duplicate: Probability,
    /// How many have one bit flipped behind their Ethernet header.
    pub corrupt: Probability,
    /// How many are not delayed, and so overtake the others.
    pub reorder: Probability,
    /// Where the streams of random numbers begin.
    pub seed: u64,
    /// What may be on its way; the rest is lost.
    pub limits: Limits,
}

impl Config {
    /// Nothing happens. 64 MiB hold 100 ms of 5 Gbit/s, and 262,144 frames 100 ms of the shortest frames at 1 Gbit/s.
    pub const NONE: Config = Config {
        delay_us: 0,
        jitter_us: 0,
        overtake: false,
        loss: Loss::Independent(Probability::NEVER),
        duplicate: Probability::NEVER,
        corrupt: Probability::NEVER,
        reorder: Probability::NEVER,
        seed: 0,
        limits: Limits { frames: 1 << 18, bytes: 1 << 26 },
    };

    /// What is wrong with it.
    ///
    /// # Errors
    /// One line for humans.
    pub fn check(&self) -> Result<(), &'static str> {
        match self {
            Config { delay_us, .. } if *delay_us > MAX_DELAY_US => Err("the delay is an hour at most"),
            Config { delay_us, jitter_us, .. } if jitter_us > delay_us => Err("the jitter exceeds the delay"),
            Config { delay_us: 0, reorder, .. } if !reorder.is_never() => Err("reordering needs a delay"),
            Config { limits: Limits { frames: 0, .. } | Limits { bytes: 0, .. }, .. } => {
                Err("a line that holds nothing")
            }
            _ => Ok(()),
        }
    }
}

/// What happened to a frame that was not lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// It is the second of two equal ones.
    pub duplicate: bool,
    /// It was not delayed as the others are.
    pub reordered: bool,
    /// This bit is flipped, counted from the frame's first byte, in each from the lowest.
    pub corrupted: Option<u32>,
}

/// What is decided of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// It does not arrive; nothing else counts then.
    pub lost: bool,
    /// It arrives twice.
    pub twice: bool,
    /// With this bit flipped.
    pub corrupted: Option<u32>,
    /// At once.
    pub at_once: bool,
    /// Else after so long.
    pub delay_us: u64,
}

/// Decides frame after frame.
#[derive(Clone, Debug)]
pub struct Decisions {
    config: Config,
    bad: bool,
    loss: Random,
    state: Random,
    duplicate: Random,
    corrupt: Random,
    bit: Random,
    reorder: Random,
    jitter: Random,
}

impl Decisions {
    /// From the first frame on.
    #[must_use]
    pub fn new(config: Config) -> Decisions {
        let stream = |number| Random::new(config.seed, number);
        Decisions {
            config,
            bad: false,
            loss: stream(1),
            state: stream(2),
            duplicate: stream(3),
            corrupt: stream(4),
            bit: stream(5),
            reorder: stream(6),
            jitter: stream(7),
        }
    }

    /// The fate of the next frame, of `len` bytes.
    pub fn next(&mut self, len: usize) -> Fate {
        let Config { delay_us, jitter_us, duplicate, corrupt, reorder, .. } = self.config;
        let behind_header = u32::try_from(len.saturating_sub(MIN_FRAME)).unwrap_or(u32::MAX / 8);
        let first = MIN_FRAME as u32 * 8;
        let bit = first + self.bit.below(u64::from(behind_header) * 8) as u32;
        let corrupted = corrupt.happens(&mut self.corrupt) && behind_header > 0;
        Fate {
            lost: self.loses(),
            twice: duplicate.happens(&mut self.duplicate),
            corrupted: corrupted.then_some(bit),
            at_once: reorder.happens(&mut self.reorder),
            delay_us: delay_us - jitter_us + self.jitter.below(2 * jitter_us + 1),
        }
    }

    /// The state decides on the frame, then it may change, as in `loss_gilb_ell()`.
    fn loses(&mut self) -> bool {
        match self.config.loss {
            Loss::Independent(probability) => {
                let _every_stream_goes_on = self.state.next_u64();
                probability.happens(&mut self.loss)
            }
            Loss::Gilbert { to_bad, to_good, in_good, in_bad } => {
                let (change, loss) = if self.bad { (to_good, in_bad) } else { (to_bad, in_good) };
                self.bad ^= change.happens(&mut self.state);
                loss.happens(&mut self.loss)
            }
        }
    }
}

/// How many frames each thing happened to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lost, by the line (not: beyond its limits).
    pub lost: u64,
    /// Arrived twice.
    pub duplicated: u64,
    /// With a bit flipped.
    pub corrupted: u64,
    /// On their way for a while.
    pub delayed: u64,
    /// Sent at once while others are delayed.
    pub reordered: u64,
}

/// What became of a frame that entered: how many there are of it, and how many of those are lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// The line lost it.
    pub lost: bool,
    /// It and its duplicate.
    pub copies: usize,
    /// Of those, so many did not fit.
    pub full: usize,
}

/// A bad line: what it decides, and the frames that are on their way.
#[derive(Debug)]
pub struct Impairment {
    decisions: Decisions,
    /// The frames on their way.
    pub line: Line,
    /// What happened so far.
    pub counts: Counts,
}

impl Impairment {
    /// From the first frame on.
    #[must_use]
    pub fn new(config: Config) -> Impairment {
        Impairment {
            decisions: Decisions::new(config),
            line: Line::new(config.limits),
            counts: Counts::default(),
        }
    }

    /// Go on in another way, with the first random numbers of its seed. Frames on their way keep their times, and those
    /// to come stay behind them.
    pub fn set_config(&mut self, config: Config) {
        self.decisions = Decisions::new(config);
        self.line.set_limits(config.limits);
    }

    /// What is to happen to frames.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.decisions.config
    }

    /// Whether frames have to be as a wire has them, with complete checksums: a receiver trusts the others.
    #[must_use]
    pub fn wants_checksums(&self) -> bool {
        !self.decisions.config.corrupt.is_never()
    }

    /// A frame enters. It is copied; at `now_us` or later it is due.
    pub fn admit(&mut self, now_us: u64, frame: &[u8], vnet: VnetHeader) -> Admitted {
        let fate = self.decisions.next(frame.len());
        if fate.lost {
            self.counts.lost += 1;
            return Admitted { lost: true, copies: 1, full: 0 };
        }
        let Config { delay_us, overtake, .. } = self.decisions.config;
        // The clock may be a part of a microsecond further than it says.
        let late_us = if fate.delay_us > 0 { now_us.saturating_add(fate.delay_us + 1) } else { now_us };
        let due_us = match () {
            () if fate.at_once => now_us,
            () if overtake => late_us,
            () => self.line.in_order(late_us),
        };
        let copies = 1 + usize::from(fate.twice);
        let mut full = 0;
        for copy in 0..copies {
            let marks = Marks { duplicate: copy > 0, reordered: fate.at_once, corrupted: fate.corrupted };
            full += usize::from(!self.line.hold(now_us, due_us, frame, vnet, marks));
        }
        self.counts.duplicated += u64::from(fate.twice);
        self.counts.corrupted += u64::from(fate.corrupted.is_some());
        self.counts.delayed += u64::from(delay_us > 0 && !fate.at_once);
        self.counts.reordered += u64::from(fate.at_once);
        Admitted { lost: false, copies, full }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half() -> Probability {
        Probability::new(0.5).unwrap()
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let none = Config::NONE;
        // (config, whether it is good)
        for (config, good) in [
            (none, true),
            (Config { delay_us: MAX_DELAY_US, jitter_us: MAX_DELAY_US, reorder: half(), ..none }, true),
            (Config { delay_us: MAX_DELAY_US + 1, ..none }, false),
            (Config { delay_us: 5, jitter_us: 6, ..none }, false),
            (Config { reorder: half(), ..none }, false),
            (Config { limits: Limits { frames: 0, bytes: 1 }, ..none }, false),
            (Config { limits: Limits { frames: 1, bytes: 0 }, ..none }, false),
        ] {
            assert_eq!(config.check().is_ok(), good, "{config:?}");
        }
    }

    #[test]
    fn each_decision_is_the_same_whatever_the_others_are() {
        let all = Config {
            delay_us: 1000,
            jitter_us: 1000,
            loss: Loss::Independent(half()),
            duplicate: half(),
            corrupt: half(),
            reorder: half(),
            seed: 7,
            ..Config::NONE
        };
        let fates = |config| {
            let mut decisions = Decisions::new(config);
            (0..200).map(|len| decisions.next(60 + len)).collect::<Vec<_>>()
        };
        let together = fates(all);
        let none = Config { delay_us: 1000, seed: 7, ..Config::NONE };
        let lost = |fates: &[Fate]| fates.iter().map(|fate| fate.lost).collect::<Vec<_>>();
        let bits = |fates: &[Fate]| fates.iter().map(|fate| fate.corrupted).collect::<Vec<_>>();
        let jitter = |fates: &[Fate]| fates.iter().map(|fate| fate.delay_us).collect::<Vec<_>>();
        assert_eq!(lost(&together), lost(&fates(Config { loss: all.loss, ..none })));
        assert_eq!(bits(&together), bits(&fates(Config { corrupt: half(), ..none })));
        assert_eq!(jitter(&together), jitter(&fates(Config { jitter_us: 1000, ..none })));
        assert_ne!(together, fates(Config { seed: 8, ..all }));
        assert!(fates(none).iter().all(|fate| {
            *fate == Fate { lost: false, twice: false, corrupted: None, at_once: false, delay_us: 1000 }
        }));
    }

    #[test]
    fn a_frame_without_a_body_cannot_be_corrupted() {
        let corrupt = Probability::new(1.0).unwrap();
        let mut decisions = Decisions::new(Config { corrupt, ..Config::NONE });
        for len in 14..400 {
            let bit = decisions.next(len).corrupted;
            let within = |bit: u32| (112..8 * u32::try_from(len).unwrap()).contains(&bit);
            assert!(bit.map_or(len == 14, within), "{len}: {bit:?}");
        }
    }
}
