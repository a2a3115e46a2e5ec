//! Fuzz target: a bad line lets every frame out that it took and did not lose, whole, at its time and in its order, within
//! its limits; and a seed repeats.

use super::Input;
use crate::framing::frames_of;
use crate::impair::{Config, Decisions, Impairment, Loss, Probability};
use crate::queue::Limits;
use crate::vnet::VnetHeader;

/// The bytes are a configuration, then steps: a frame enters, time passes, the configuration changes, or all is lost.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut config = config(&mut input);
    let (mut impairment, mut decisions) = (Impairment::new(config), Decisions::new(config));
    let mut twin: Vec<(u64, Vec<u8>)> = Vec::new(); // by time, equal ones as they came
    let (mut now, mut last) = (u64::from(input.word()), 0);
    while !input.is_empty() {
        match input.byte() {
            0..=159 => {
                let frame = vec![input.byte(); 14 + usize::from(input.word()) % 3000];
                let fate = decisions.next(frame.len());
                let admitted = impairment.admit(now, &frame, VnetHeader::PLAIN);
                assert_eq!(admitted.lost, fate.lost);
                if fate.lost {
                    continue;
                }
                let late = now + if fate.delay_us > 0 { fate.delay_us + 1 } else { 0 };
                last = if fate.at_once || config.overtake { last } else { late.max(last) };
                let due = match () {
                    () if fate.at_once => now,
                    () if config.overtake => late,
                    () => last,
                };
                assert_eq!(admitted.copies, 1 + usize::from(fate.twice));
                let mut sent = frame;
                if let Some(bit) = fate.corrupted {
                    assert!(bit >= 8 * 14, "the Ethernet header is spared");
                    sent[bit as usize / 8] ^= 1 << (bit % 8);
                }
                for _ in 0..admitted.copies - admitted.full {
                    let at = twin.partition_point(|(other, _)| *other <= due);
                    twin.insert(at, (due, sent.clone()));
                }
            }
            160..=223 => {
                now += u64::from(input.word()) << (input.byte() % 24);
                leave(&mut impairment, now, &mut twin);
            }
            224..=239 => {
                config = self::config(&mut input);
                impairment.set_config(config);
                decisions = Decisions::new(config);
            }
            _ => {
                assert_eq!(impairment.line.purge(), twin.len());
                twin.clear();
                last = 0;
            }
        }
        let line = &impairment.line;
        assert_eq!((line.len(), line.next_due_us()), (twin.len(), twin.first().map(|(due, _)| *due)));
        assert!(line.bytes() >= twin.iter().map(|(_, frame)| frame.len() + 4).sum());
    }
    leave(&mut impairment, u64::MAX, &mut twin);
    assert!(twin.is_empty() && impairment.line.bytes() == 0);
}

fn leave(impairment: &mut Impairment, now: u64, twin: &mut Vec<(u64, Vec<u8>)>) {
    let mut runs = Vec::new();
    while let Some(batch) = impairment.line.take_due(now, &mut runs, |_, _, _| {}) {
        for frame in runs.drain(..).flat_map(|run| frames_of(impairment.line.wire(&batch), run)) {
            let (due, expected) = twin.remove(0);
            assert!(due <= now && frame == expected);
        }
        impairment.line.release(batch);
    }
    assert!(twin.first().is_none_or(|(due, _)| *due > now));
}

fn config(input: &mut Input<'_>) -> Config {
    let mut probability = || Probability::new(f64::from(input.byte()) / 255.0).unwrap_or_default();
    let (duplicate, corrupt, reorder) = (probability(), probability(), probability());
    let gilbert = [probability(), probability(), probability(), probability()];
    let delay_us = u64::from(input.word()) << (input.byte() % 16);
    let config = Config {
        delay_us,
        jitter_us: delay_us / u64::from(input.byte().max(1)),
        overtake: input.byte().is_multiple_of(2),
        loss: match input.byte() % 2 {
            0 => Loss::Independent(gilbert[0]),
            _ => Loss::Gilbert {
                to_bad: gilbert[0],
                to_good: gilbert[1],
                in_good: gilbert[2],
                in_bad: gilbert[3],
            },
        },
        duplicate,
        corrupt,
        reorder: if delay_us > 0 { reorder } else { Probability::NEVER },
        seed: u64::from(input.word()),
        limits: Limits { frames: 1 + usize::from(input.byte()), bytes: 1 + usize::from(input.word()) * 16 },
    };
    assert_eq!(config.check(), Ok(()));
    config
}
