//! Fuzz target: any BPF program is refused, or ends and says the same however the packet is cut in two.

use super::Input;
use crate::capture::bpf::{Instruction, Program};

/// The bytes are a number of instructions, the instructions, then a packet.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let instructions: Vec<Instruction> = (0..usize::from(input.byte() % 32))
        .map(|_| Instruction {
            code: input.word(),
            jt: input.byte(),
            jf: input.byte(),
            k: u32::from(input.word()) << 16 | u32::from(input.word()),
        })
        .collect();
    let Ok(program) = Program::new(&instructions) else { return };
    let packet = input.bytes(usize::MAX);
    let whole = program.run(&[], packet);
    for cut in 0..=packet.len().min(8) {
        let (header, rest) = packet.split_at(cut);
        assert_eq!(program.run(header, rest), whole, "cut at {cut}");
    }
}
