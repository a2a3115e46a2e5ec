//! The decoded BPF machine against one that reads the instructions' bits at each step.

use proptest::prelude::*;
use vbackend_proto::capture::bpf::{Instruction, Program};

/// libpcap's `bpf_filter.c`, by the bit fields of net/bpf.h, with 64-bit numbers so that nothing wraps unseen.
fn naive_run(program: &[Instruction], packet: &[u8]) -> u32 {
    let (mut a, mut x, mut at) = (0u64, 0u64, 0usize);
    let mut memory = [0u64; 16];
    let mask = 0xffff_ffffu64;
    let load = |size: u16, from: u64| -> Option<u64> {
        let bytes = match size {
            0x00 => 4,
            0x08 => 2,
            _ => 1,
        };
        let mut value = 0;
        for offset in 0..bytes {
            value = value << 8 | u64::from(*packet.get(usize::try_from(from + offset).ok()?)?);
        }
        Some(value)
    };
    loop {
        let one = program[at];
        at += 1;
        let k = u64::from(one.k);
        let operand = if one.code & 8 == 0 { k } else { x };
        let slot = (k & 15) as usize;
        match one.code & 7 {
            0 => {
                let loaded = match one.code & 0xe0 {
                    0x00 => Some(k),
                    0x20 => load(one.code & 0x18, k),
                    0x40 => load(one.code & 0x18, x + k),
                    0x60 => Some(memory[slot]),
                    _ => Some(packet.len() as u64),
                };
                let Some(loaded) = loaded else { return 0 };
                a = loaded;
            }
            1 => {
                x = match one.code & 0xe0 {
                    0x00 => k,
                    0x60 => memory[slot],
                    0x80 => packet.len() as u64,
                    _ => match load(0x10, k) {
                        Some(byte) => (byte & 15) * 4,
                        None => return 0,
                    },
                };
            }
            2 => memory[slot] = a,
            3 => memory[slot] = x,
            4 => {
                a = match one.code & 0xf0 {
                    0x00 => a + operand,
                    0x10 => a + (1 << 32) - operand,
                    0x20 => a * operand,
                    0x30 | 0x90 if operand == 0 => return 0,
                    0x30 => a / operand,
                    0x40 => a | operand,
                    0x50 => a & operand,
                    0x60 => {
                        if operand < 32 {
                            a << operand
                        } else {
                            0
                        }
                    }
                    0x70 => {
                        if operand < 32 {
                            a >> operand
                        } else {
                            0
                        }
                    }
                    0x80 => (1 << 32) - a,
                    0x90 => a % operand,
                    _ => a ^ operand,
                } & mask;
            }
            5 => {
                let holds = match one.code & 0xf0 {
                    0x00 => {
                        at += one.k as usize;
                        continue;
                    }
                    0x10 => a == operand,
                    0x20 => a > operand,
                    0x30 => a >= operand,
                    _ => a & operand != 0,
                };
                at += usize::from(if holds { one.jt } else { one.jf });
            }
            6 => return if one.code & 0x18 == 0 { one.k } else { a as u32 },
            _ => {
                if one.code & 0x80 == 0 {
                    x = a;
                } else {
                    a = x;
                }
            }
        }
    }
}

const CODES: &[u16] = &[
    0x00, 0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x60, 0x80, 0x01, 0x61, 0x81, 0xb1, 0x02, 0x03, 0x04, 0x0c,
    0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x44, 0x4c, 0x54, 0x5c, 0x64, 0x6c, 0x74, 0x7c, 0x84, 0x94, 0x9c,
    0xa4, 0xac, 0x05, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d, 0x06, 0x16, 0x07, 0x87,
];

fn instruction() -> impl Strategy<Value = Instruction> {
    let k = prop_oneof![6 => 0u32..40, 2 => any::<u32>(), 1 => Just(u32::MAX)];
    (proptest::sample::select(CODES), 0u8..6, 0u8..6, k).prop_map(|(code, jt, jf, k)| Instruction {
        code,
        jt,
        jf,
        k,
    })
}

/// Programs that pass the check: operands out of range are brought into it.
fn program() -> impl Strategy<Value = Vec<Instruction>> {
    (proptest::collection::vec(instruction(), 0..60), any::<bool>()).prop_map(|(mut program, constant)| {
        let last = if constant { 0x06 } else { 0x16 };
        program.push(Instruction { code: last, jt: 0, jf: 0, k: 7 });
        let len = program.len();
        for (at, one) in program.iter_mut().enumerate() {
            let room = u8::try_from(len - at - 1).unwrap_or(u8::MAX).saturating_sub(1);
            (one.jt, one.jf) = (one.jt.min(room), one.jf.min(room));
            match one.code {
                0x05 => one.k = one.k.min(u32::from(room)),
                0x60 | 0x61 | 0x02 | 0x03 => one.k &= 15,
                0x34 | 0x94 => one.k = one.k.max(1),
                _ => {}
            }
        }
        program
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_machines_agree(
        program in program(),
        packet in proptest::collection::vec(any::<u8>(), 0..60),
        cut in 0usize..60,
    ) {
        let (header, rest) = packet.split_at(cut.min(packet.len()));
        let decoded = Program::new(&program).expect("made to be good");
        prop_assert_eq!(decoded.run(header, rest), naive_run(&program, &packet));
    }

    #[test]
    fn any_instructions_are_refused_or_run(
        raw in proptest::collection::vec((any::<u16>(), any::<u8>(), any::<u8>(), any::<u32>()), 0..20),
        packet in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let program: Vec<_> =
            raw.into_iter().map(|(code, jt, jf, k)| Instruction { code: code & 0xff, jt: jt % 4, jf: jf % 4, k }).collect();
        if let Ok(decoded) = Program::new(&program) {
            prop_assert_eq!(decoded.run(&[], &packet), naive_run(&program, &packet));
        }
    }
}
