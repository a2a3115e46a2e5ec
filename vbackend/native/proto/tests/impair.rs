//! The timer wheel against a sorted list, a line against what it was told, and decisions against what theory expects.
#![allow(missing_docs, clippy::unwrap_used)]

use proptest::prelude::*;
use vbackend_proto::framing::frames_of;
use vbackend_proto::impair::wheel::Wheel;
use vbackend_proto::impair::{Config, Decisions, Impairment, Loss, Probability};
use vbackend_proto::queue::Limits;
use vbackend_proto::vnet::VnetHeader;

#[derive(Clone, Debug)]
enum Step {
    Insert(u64),
    Wait(u64),
    PopOne,
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    let distance = prop_oneof![4 => 0u64..200, 3 => 0u64..100_000, 1 => 0u64..1 << 40, 1 => any::<u64>()];
    prop_oneof![
        8 => distance.prop_map(Step::Insert),
        3 => (0u64..300).prop_map(Step::Wait),
        1 => (0u64..1 << 38).prop_map(Step::Wait),
        3 => Just(Step::PopOne),
        1 => Just(Step::Clear),
    ]
}

proptest! {
    #[test]
    fn a_wheel_is_a_sorted_list(start in any::<u32>(), steps in prop::collection::vec(step(), 0..400)) {
        let mut now = u64::from(start);
        let mut wheel = Wheel::default();
        let mut twin: Vec<(u64, usize)> = Vec::new(); // by time, equal ones as they came
        for (value, step) in steps.into_iter().enumerate() {
            match step {
                Step::Insert(distance) => {
                    let due = now.saturating_add(distance);
                    wheel.insert(now, due, value);
                    let at = twin.partition_point(|(other, _)| *other <= due);
                    twin.insert(at, (due, value));
                }
                Step::Wait(ticks) => {
                    now = now.saturating_add(ticks);
                    while let Some(value) = wheel.pop(now) {
                        prop_assert_eq!(value, twin.remove(0).1);
                    }
                    prop_assert!(twin.first().is_none_or(|(due, _)| *due > now));
                }
                Step::PopOne => {
                    let due = twin.first().filter(|(due, _)| *due <= now).map(|(_, value)| *value);
                    prop_assert_eq!(wheel.peek(now).copied(), due);
                    prop_assert_eq!(wheel.pop(now), due);
                    if due.is_some() { twin.remove(0); }
                }
                Step::Clear => {
                    wheel.clear();
                    twin.clear();
                }
            }
            prop_assert_eq!(wheel.len(), twin.len());
            prop_assert_eq!(wheel.next_due(), twin.first().map(|(due, _)| *due));
        }
    }

    #[test]
    fn a_line_gives_back_what_it_was_given(
        seed in any::<u64>(),
        overtake in any::<bool>(),
        frames in prop::collection::vec((14usize..3000, 0u64..2000), 1..300),
        limit in 1000usize..1_000_000,
    ) {
        let half = Probability::new(0.5).unwrap();
        let config = Config {
            delay_us: 5000,
            jitter_us: 5000,
            overtake,
            duplicate: half,
            reorder: Probability::new(0.2).unwrap(),
            loss: Loss::Independent(Probability::new(0.1).unwrap()),
            seed,
            limits: Limits { frames: 200, bytes: limit },
            ..Config::NONE
        };
        let mut impairment = Impairment::new(config);
        let mut decisions = Decisions::new(config);
        let (mut now, mut last, mut twin, mut got) = (0, 0, Vec::new(), Vec::new());
        for (serial, (len, wait)) in frames.iter().enumerate() {
            now += wait;
            let frame = vec![u8::try_from(serial % 251).unwrap(); *len];
            let fate = decisions.next(*len);
            let admitted = impairment.admit(now, &frame, VnetHeader::PLAIN);
            prop_assert_eq!(admitted.lost, fate.lost);
            if !fate.lost {
                let due = if fate.at_once { now } else { now + fate.delay_us + u64::from(fate.delay_us > 0) };
                if !fate.at_once { last = due.max(last); }
                let due = if fate.at_once || overtake { due } else { last };
                prop_assert_eq!(admitted.copies, 1 + usize::from(fate.twice));
                twin.extend((0..admitted.copies - admitted.full).map(|_| (due, frame.clone())));
            }
            prop_assert!(impairment.line.bytes() <= limit && impairment.line.len() <= 200);
            leave(&mut impairment, now, &mut got);
        }
        leave(&mut impairment, u64::MAX, &mut got);
        twin.sort_by_key(|(due, _)| *due);
        let twin: Vec<_> = twin.into_iter().map(|(_, frame)| frame).collect();
        prop_assert!(got == twin);
        prop_assert_eq!((impairment.line.len(), impairment.line.bytes()), (0, 0));
    }
}

fn leave(impairment: &mut Impairment, now: u64, got: &mut Vec<Vec<u8>>) {
    let mut runs = Vec::new();
    while let Some(batch) = impairment.line.take_due(now, &mut runs, |_, _, _| {}) {
        for run in runs.drain(..) {
            got.extend(frames_of(impairment.line.wire(&batch), run).map(<[u8]>::to_vec));
        }
        impairment.line.release(batch);
    }
}

const FRAMES: u32 = 400_000;

/// Whether `count` of [`FRAMES`] is what a probability says, within 4.5 standard deviations times `spread`.
fn is_near(count: u32, probability: f64, spread: f64) -> bool {
    let n = f64::from(FRAMES);
    let deviation = (n * probability * (1.0 - probability)).sqrt() * spread;
    (f64::from(count) - n * probability).abs() <= 4.5 * deviation
}

fn probability(value: f64) -> Probability {
    Probability::new(value).unwrap()
}

#[test]
fn independent_decisions_are_as_likely_as_they_say() {
    for (value, seed) in [(0.0, 1), (0.001, 2), (0.01, 3), (0.3, 4), (0.999, 5), (1.0, 6)] {
        let mut decisions = Decisions::new(Config {
            delay_us: 1,
            loss: Loss::Independent(probability(value)),
            duplicate: probability(value),
            corrupt: probability(value),
            reorder: probability(value),
            seed,
            ..Config::NONE
        });
        let (mut counts, mut both) = ([0; 4], 0);
        for _ in 0..FRAMES {
            let fate = decisions.next(100);
            let found = [fate.lost, fate.twice, fate.corrupted.is_some(), fate.at_once];
            counts.iter_mut().zip(found).for_each(|(count, found)| *count += u32::from(found));
            both += u32::from(fate.lost && fate.twice);
        }
        assert!(counts.iter().all(|count| is_near(*count, value, 1.0)), "{value}: {counts:?}");
        assert!(is_near(both, value * value, 1.0), "{value}: the streams are independent, {both}");
    }
}

#[test]
fn gilbert_elliott_losses_come_in_bursts_of_the_right_length() {
    for (p, r, seed) in [(0.01, 0.1, 1), (0.02, 0.5, 2), (0.001, 0.05, 3)] {
        let loss = Loss::Gilbert {
            to_bad: probability(p),
            to_good: probability(r),
            in_good: Probability::NEVER,
            in_bad: probability(1.0),
        };
        let mut decisions = Decisions::new(Config { loss, seed, ..Config::NONE });
        let (mut lost, mut bursts, mut within, mut longer) = (0, 0u32, 0u32, 0u32);
        for _ in 0..FRAMES {
            if decisions.next(100).lost {
                lost += 1;
                within += 1;
            } else if within > 0 {
                bursts += 1;
                longer += u32::from(f64::from(within) > 1.0 / r);
                within = 0;
            }
        }
        // The chain's variance is larger than that of independent losses by (1 + c) / (1 - c), c = 1 - p - r.
        let share = p / (p + r);
        let correlation: f64 = 1.0 - p - r;
        let spread = ((1.0 + correlation) / (1.0 - correlation)).sqrt();
        assert!(is_near(lost, share, spread), "{lost} of {FRAMES}, {share} expected");
        // Bursts are geometric: 1/r frames in the mean, with the deviation sqrt(1-r)/r.
        let bursts_f = f64::from(bursts);
        let mean = f64::from(lost) / bursts_f;
        let error = 4.5 * (1.0 - r).sqrt() / r / bursts_f.sqrt();
        assert!((mean - 1.0 / r).abs() <= error, "{mean} frames a burst, {} expected", 1.0 / r);
        let tail = (1.0 - r).powf((1.0 / r).floor());
        let error = 4.5 * (tail * (1.0 - tail) / bursts_f).sqrt();
        assert!((f64::from(longer) / bursts_f - tail).abs() <= error, "{longer} of {bursts} are longer");
    }
}

#[test]
fn gilbert_elliott_losses_within_a_state_are_as_likely_as_they_say() {
    let loss = Loss::Gilbert {
        to_bad: probability(0.05),
        to_good: probability(0.2),
        in_good: probability(0.01),
        in_bad: probability(0.6),
    };
    let mut decisions = Decisions::new(Config { loss, seed: 9, ..Config::NONE });
    let lost = (0..FRAMES).filter(|_| decisions.next(100).lost).count();
    let share = 0.2 * 0.6 + 0.8 * 0.01;
    assert!(is_near(u32::try_from(lost).unwrap(), share, 2.0), "{lost}");
}

#[test]
fn jitter_is_uniform() {
    let mut decisions = Decisions::new(Config { delay_us: 1000, jitter_us: 100, ..Config::NONE });
    let mut counts = [0u32; 201];
    for _ in 0..FRAMES {
        counts[usize::try_from(decisions.next(100).delay_us - 900).unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| is_near(*count, 1.0 / 201.0, 1.0)), "{counts:?}");
}
