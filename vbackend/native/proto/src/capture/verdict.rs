//! What became of a captured packet, and the words of it that stand in the packet's comment.

use std::fmt::{Display, Formatter, Result};

use crate::drop_reason::DropReason;

/// What became of a packet. The default: it went on as it came, and has no comment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why it went no further, when it did not.
    pub dropped: Option<DropReason>,
    /// What a link that is impaired did to it.
    pub impaired: Option<Impaired>,
}

/// What an impaired link did to a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Impaired {
    /// What the link's dice began with.
    pub seed: u64,
    /// The dice had it lost: that is what the verdict's reason means.
    pub lost: bool,
    /// How long it was on its way, in microseconds.
    pub delay_us: u64,
    /// It overtook others.
    pub reordered: bool,
    /// It is the second of two.
    pub duplicate: bool,
    /// This bit was flipped, counted from the first byte, in each from the lowest.
    pub corrupted_bit: Option<u32>,
}

impl Verdict {
    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Verdict::default()
    }

    /// What both verdicts say of one packet; where they contradict each other, the later one.
    #[must_use]
    pub fn and(self, later: Verdict) -> Verdict {
        let impaired = match (self.impaired, later.impaired) {
            (Some(one), Some(two)) => Some(Impaired {
                seed: two.seed,
                lost: one.lost || two.lost,
                delay_us: if two.delay_us > 0 { two.delay_us } else { one.delay_us },
                reordered: one.reordered || two.reordered,
                duplicate: one.duplicate || two.duplicate,
                corrupted_bit: two.corrupted_bit.or(one.corrupted_bit),
            }),
            (one, two) => two.or(one),
        };
        Verdict { dropped: later.dropped.or(self.dropped), impaired }
    }
}

impl From<DropReason> for Verdict {
    fn from(reason: DropReason) -> Verdict {
        Verdict { dropped: Some(reason), impaired: None }
    }
}

impl From<Impaired> for Verdict {
    fn from(impaired: Impaired) -> Verdict {
        Verdict { dropped: None, impaired: Some(impaired) }
    }
}

impl Display for Verdict {
    /// The comment: what was done to the packet in the order in which a link does it, then why it was lost.
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let mut before = "";
        let mut say = |f: &mut Formatter<'_>, words: std::fmt::Arguments<'_>| {
            let result = write!(f, "{before}{words}");
            before = ", ";
            result
        };
        if let Some(impaired) = self.impaired {
            if impaired.duplicate {
                say(f, format_args!("duplicate"))?;
            }
            if let Some(bit) = impaired.corrupted_bit {
                say(f, format_args!("corrupted bit {bit}"))?;
            }
            if impaired.reordered {
                say(f, format_args!("reordered"))?;
            }
            if impaired.delay_us > 0 {
                let (ms, us) = (impaired.delay_us / 1000, impaired.delay_us % 1000);
                let fraction = format!("{us:03}");
                match fraction.trim_end_matches('0') {
                    "" => say(f, format_args!("delayed {ms} ms"))?,
                    digits => say(f, format_args!("delayed {ms}.{digits} ms"))?,
                }
            }
        }
        match (self.dropped, self.impaired) {
            (Some(reason), Some(Impaired { seed, lost: true, .. })) => {
                say(f, format_args!("lost: impairment {}, seed {seed}", reason.name()))
            }
            (Some(reason), _) => say(f, format_args!("dropped: {}", reason.name())),
            (None, _) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Impaired = Impaired {
        seed: 7,
        lost: false,
        delay_us: 0,
        reordered: false,
        duplicate: false,
        corrupted_bit: None,
    };

    #[test]
    fn words() {
        let all = Impaired {
            delay_us: 50_000,
            reordered: true,
            duplicate: true,
            corrupted_bit: Some(1234),
            ..PLAIN
        };
        for (verdict, words) in [
            (Verdict::default(), ""),
            (PLAIN.into(), ""),
            (DropReason::QueueFull.into(), "dropped: queue-full"),
            (Impaired { delay_us: 50_000, ..PLAIN }.into(), "delayed 50 ms"),
            (Impaired { delay_us: 1500, ..PLAIN }.into(), "delayed 1.5 ms"),
            (Impaired { delay_us: 1, ..PLAIN }.into(), "delayed 0.001 ms"),
            (Impaired { duplicate: true, ..PLAIN }.into(), "duplicate"),
            (Impaired { corrupted_bit: Some(0), ..PLAIN }.into(), "corrupted bit 0"),
            (
                Verdict {
                    dropped: Some(DropReason::Refused),
                    impaired: Some(Impaired { lost: true, ..PLAIN }),
                },
                "lost: impairment refused, seed 7",
            ),
            (all.into(), "duplicate, corrupted bit 1234, reordered, delayed 50 ms"),
            (
                Verdict { dropped: Some(DropReason::QueueFull), impaired: Some(all) },
                "duplicate, corrupted bit 1234, reordered, delayed 50 ms, dropped: queue-full",
            ),
        ] {
            assert_eq!(verdict.to_string(), words);
        }
    }

    #[test]
    fn verdicts_add_up() {
        let (full, down) = (Verdict::from(DropReason::QueueFull), Verdict::from(DropReason::PortDown));
        let late = Verdict::from(Impaired { delay_us: 5, seed: 1, ..PLAIN });
        let broken = Verdict::from(Impaired { corrupted_bit: Some(3), seed: 2, ..PLAIN });
        let both = Impaired { seed: 2, delay_us: 5, corrupted_bit: Some(3), ..PLAIN };
        for (one, two, expected) in [
            (Verdict::default(), full, full),
            (full, Verdict::default(), full),
            (full, down, down),
            (late, full, Verdict { dropped: full.dropped, impaired: late.impaired }),
            (late, broken, both.into()),
        ] {
            assert_eq!(one.and(two), expected);
        }
        assert!(Verdict::default().is_plain() && !late.is_plain());
    }
}
