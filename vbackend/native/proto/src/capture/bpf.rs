//! Classic BPF, the machine that libpcap compiles filters for (net/bpf.h; libpcap `bpf_filter.c: pcapint_filter`).
//!
//! A program is checked and decoded once ([`Program::new`]); after that every jump goes forward to an instruction that
//! exists, every index of the scratch memory is in range, and the last instruction returns. So running it takes at most
//! [`MAX_INSTRUCTIONS`] steps and cannot fail: a load outside of the packet or a division by zero rejects the packet.

use std::fmt;

/// The longest program: the kernels' `BPF_MAXINSNS`.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Words of scratch memory: `BPF_MEMWORDS`.
const MEMORY_WORDS: usize = 16;

/// One instruction as libpcap gives it: `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Class, size, mode and operation.
    pub code: u16,
    /// Instructions to skip when a condition holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// Why a program cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidProgram {
    /// The index of the instruction.
    pub at: usize,
    /// What is wrong with it.
    pub why: &'static str,
}

impl fmt::Display for InvalidProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BPF instruction {}: {}", self.at, self.why)
    }
}

#[derive(Clone, Copy, Debug)]
enum Size {
    Word,
    Half,
    Byte,
}

/// A second operand.
#[derive(Clone, Copy, Debug)]
enum Source {
    Constant(u32),
    X,
}

#[derive(Clone, Copy, Debug)]
enum Alu {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Or,
    And,
    Xor,
    ShiftLeft,
    ShiftRight,
}

#[derive(Clone, Copy, Debug)]
enum Condition {
    Equal,
    Greater,
    GreaterOrEqual,
    AnyBit,
}

/// A decoded instruction. Jumps hold the indexes they lead to.
#[derive(Clone, Copy, Debug)]
enum Op {
    Load(Source),
    LoadAbsolute(Size, u32),
    LoadIndirect(Size, u32),
    LoadMemory(usize),
    LoadLength,
    LoadX(u32),
    LoadXMemory(usize),
    LoadXLength,
    LoadXHeaderLength(u32),
    Store(usize),
    StoreX(usize),
    Alu(Alu, Source),
    Negate,
    Jump(usize),
    Branch(Condition, Source, usize, usize),
    MoveToX,
    Return(u32),
    ReturnA,
}

/// A program that may be run.
#[derive(Clone, Debug)]
pub struct Program(Vec<Op>);

impl Program {
    /// Check and decode a program.
    ///
    /// # Errors
    /// An unknown instruction, a jump out of the program, a bad memory index, a division by the constant zero, no
    /// instruction or too many, or a last one that does not return.
    pub fn new(instructions: &[Instruction]) -> Result<Program, InvalidProgram> {
        let len = instructions.len();
        let wrong = |at, why| InvalidProgram { at, why };
        if len > MAX_INSTRUCTIONS {
            return Err(wrong(MAX_INSTRUCTIONS, "one too many"));
        }
        let decode_one =
            |(at, one): (usize, &Instruction)| decode(*one, at, len).map_err(|why| wrong(at, why));
        let ops: Vec<Op> = instructions.iter().enumerate().map(decode_one).collect::<Result<_, _>>()?;
        match ops.last() {
            Some(Op::Return(_) | Op::ReturnA) => Ok(Program(ops)),
            _ => Err(wrong(len.saturating_sub(1), "the last one has to return")),
        }
    }

    /// Run it on a packet that lies in two pieces. Returns how many of its bytes to keep; 0 rejects it.
    #[must_use]
    pub fn run(&self, header: &[u8], packet: &[u8]) -> u32 {
        self.evaluate(Pieces { header, packet }).unwrap_or(0)
    }

    /// None: the packet is rejected by a load outside of it or by a division by zero.
    fn evaluate(&self, packet: Pieces<'_>) -> Option<u32> {
        let (mut a, mut x) = (0u32, 0u32);
        let mut memory = [0u32; MEMORY_WORDS];
        let mut next = 0;
        loop {
            let op = self.0[next];
            next += 1;
            let value = |source| match source {
                Source::Constant(k) => k,
                Source::X => x,
            };
            match op {
                Op::Load(source) => a = value(source),
                Op::LoadAbsolute(size, k) => a = packet.load(size, k as usize)?,
                Op::LoadIndirect(size, k) => a = packet.load(size, x as usize + k as usize)?,
                Op::LoadMemory(index) => a = memory[index],
                Op::LoadLength => a = packet.len(),
                Op::LoadX(k) => x = k,
                Op::LoadXMemory(index) => x = memory[index],
                Op::LoadXLength => x = packet.len(),
                Op::LoadXHeaderLength(k) => x = (packet.load(Size::Byte, k as usize)? & 0xf) << 2,
                Op::Store(index) => memory[index] = a,
                Op::StoreX(index) => memory[index] = x,
                Op::Alu(operation, source) => a = operation.apply(a, value(source))?,
                Op::Negate => a = a.wrapping_neg(),
                Op::Jump(to) => next = to,
                Op::Branch(condition, source, yes, no) => {
                    next = if condition.holds(a, value(source)) { yes } else { no };
                }
                Op::MoveToX => x = a,
                Op::Return(k) => return Some(k),
                Op::ReturnA => return Some(a),
            }
        }
    }
}

impl Alu {
    /// None: a division by zero.
    fn apply(self, a: u32, operand: u32) -> Option<u32> {
        Some(match self {
            Alu::Add => a.wrapping_add(operand),
            Alu::Subtract => a.wrapping_sub(operand),
            Alu::Multiply => a.wrapping_mul(operand),
            Alu::Divide => return a.checked_div(operand),
            Alu::Modulo => return a.checked_rem(operand),
            Alu::Or => a | operand,
            Alu::And => a & operand,
            Alu::Xor => a ^ operand,
            Alu::ShiftLeft => a.checked_shl(operand).unwrap_or(0),
            Alu::ShiftRight => a.checked_shr(operand).unwrap_or(0),
        })
    }
}

impl Condition {
    fn holds(self, a: u32, operand: u32) -> bool {
        match self {
            Condition::Equal => a == operand,
            Condition::Greater => a > operand,
            Condition::GreaterOrEqual => a >= operand,
            Condition::AnyBit => a & operand != 0,
        }
    }
}

/// A packet in two pieces, read as one.
#[derive(Clone, Copy)]
struct Pieces<'a> {
    header: &'a [u8],
    packet: &'a [u8],
}

impl Pieces<'_> {
    fn len(self) -> u32 {
        u32::try_from(self.header.len() + self.packet.len()).unwrap_or(u32::MAX)
    }

    fn load(self, size: Size, at: usize) -> Option<u32> {
        match size {
            Size::Word => self.bytes(at).map(u32::from_be_bytes),
            Size::Half => self.bytes(at).map(|two| u32::from(u16::from_be_bytes(two))),
            Size::Byte => self.bytes(at).map(|[one]| u32::from(one)),
        }
    }

    fn bytes<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        if let Some(at) = at.checked_sub(self.header.len()) {
            return self.packet.get(at..)?.first_chunk().copied();
        }
        let mut found = [0; N];
        for (byte, from) in found.iter_mut().zip(self.header[at..].iter().chain(self.packet)) {
            *byte = *from;
        }
        (at + N <= self.header.len() + self.packet.len()).then_some(found)
    }
}

/// Decode one instruction of a program of `len`. The numbers are those of net/bpf.h.
fn decode(one: Instruction, at: usize, len: usize) -> Result<Op, &'static str> {
    let Instruction { code, jt, jf, k } = one;
    let memory = || match usize::try_from(k) {
        Ok(index) if index < MEMORY_WORDS => Ok(index),
        _ => Err("no such word of scratch memory"),
    };
    let target = |skip: u32| match usize::try_from(skip).unwrap_or(len).saturating_add(at + 1) {
        to if to < len => Ok(to),
        _ => Err("a jump out of the program"),
    };
    let source = if code & 0x08 == 0 { Source::Constant(k) } else { Source::X };
    let op = match code {
        0x00 => Op::Load(Source::Constant(k)),
        0x20 => Op::LoadAbsolute(Size::Word, k),
        0x28 => Op::LoadAbsolute(Size::Half, k),
        0x30 => Op::LoadAbsolute(Size::Byte, k),
        0x40 => Op::LoadIndirect(Size::Word, k),
        0x48 => Op::LoadIndirect(Size::Half, k),
        0x50 => Op::LoadIndirect(Size::Byte, k),
        0x60 => Op::LoadMemory(memory()?),
        0x80 => Op::LoadLength,
        0x01 => Op::LoadX(k),
        0x61 => Op::LoadXMemory(memory()?),
        0x81 => Op::LoadXLength,
        0xb1 => Op::LoadXHeaderLength(k),
        0x02 => Op::Store(memory()?),
        0x03 => Op::StoreX(memory()?),
        0x84 => Op::Negate,
        0x04 | 0x0c => Op::Alu(Alu::Add, source),
        0x14 | 0x1c => Op::Alu(Alu::Subtract, source),
        0x24 | 0x2c => Op::Alu(Alu::Multiply, source),
        0x34 | 0x94 if k == 0 => return Err("a division by zero"),
        0x34 | 0x3c => Op::Alu(Alu::Divide, source),
        0x94 | 0x9c => Op::Alu(Alu::Modulo, source),
        0x44 | 0x4c => Op::Alu(Alu::Or, source),
        0x54 | 0x5c => Op::Alu(Alu::And, source),
        0x64 | 0x6c => Op::Alu(Alu::ShiftLeft, source),
        0x74 | 0x7c => Op::Alu(Alu::ShiftRight, source),
        0xa4 | 0xac => Op::Alu(Alu::Xor, source),
        0x05 => Op::Jump(target(k)?),
        0x15 | 0x1d | 0x25 | 0x2d | 0x35 | 0x3d | 0x45 | 0x4d => {
            let condition = match code & 0xf0 {
                0x10 => Condition::Equal,
                0x20 => Condition::Greater,
                0x30 => Condition::GreaterOrEqual,
                _ => Condition::AnyBit,
            };
            Op::Branch(condition, source, target(jt.into())?, target(jf.into())?)
        }
        0x06 => Op::Return(k),
        0x16 => Op::ReturnA,
        0x07 => Op::MoveToX,
        0x87 => Op::Load(Source::X),
        _ => return Err("unknown"),
    };
    Ok(op)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETURN_A: Instruction = Instruction { code: 0x16, jt: 0, jf: 0, k: 0 };

    fn insn(code: u16, k: u32) -> Instruction {
        Instruction { code, jt: 0, jf: 0, k }
    }

    fn jump(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    fn run(instructions: &[Instruction], header: &[u8], packet: &[u8]) -> u32 {
        Program::new(instructions).unwrap().run(header, packet)
    }

    #[test]
    fn loads_read_across_the_pieces_and_reject_outside() {
        let all: Vec<u8> = (1..=10).collect();
        // (code, k, x, accumulator; None: rejected)
        let table = [
            (0x20, 0, 0, Some(0x0102_0304)),
            (0x20, 6, 0, Some(0x0708_090a)),
            (0x20, 7, 0, None),
            (0x20, u32::MAX, 0, None),
            (0x28, 3, 0, Some(0x0405)),
            (0x28, 8, 0, Some(0x090a)),
            (0x28, 9, 0, None),
            (0x30, 9, 0, Some(10)),
            (0x30, 10, 0, None),
            (0x40, 2, 3, Some(0x0607_0809)),
            (0x48, 0, 8, Some(0x090a)),
            (0x50, 1, u32::MAX, None),
            (0x50, u32::MAX, u32::MAX, None),
            (0x80, 0, 0, Some(10)),
            (0x00, 77, 0, Some(77)),
            (0x87, 0, 5, Some(5)),
        ];
        for cut in 0..=all.len() {
            let (header, packet) = all.split_at(cut);
            for (code, k, x, expected) in table {
                let program = [insn(0x01, x), insn(code, k), RETURN_A];
                assert_eq!(run(&program, header, packet), expected.unwrap_or(0), "{code:#x} {k} {x} {cut}");
            }
            for (code, k, expected) in [(0x81, 0, 10), (0xb1, 4, 20), (0xb1, 10, 0), (0x01, 3, 3)] {
                let program = [insn(code, k), insn(0x87, 0), RETURN_A];
                assert_eq!(run(&program, header, packet), expected, "{code:#x} {k} {cut}");
            }
        }
    }

    #[test]
    fn arithmetic_wraps_and_zero_divides_nothing() {
        // (operation with a constant, a, operand, result)
        let table = [
            (0x04, u32::MAX, 2, 1),
            (0x14, 1, 2, u32::MAX),
            (0x24, 1 << 31, 2, 0),
            (0x34, 7, 2, 3),
            (0x94, 7, 4, 3),
            (0x44, 5, 2, 7),
            (0x54, 7, 10, 2),
            (0xa4, 7, 2, 5),
            (0x64, 1, 31, 1 << 31),
            (0x64, 1, 32, 0),
            (0x74, 8, 2, 2),
            (0x74, 8, 40, 0),
        ];
        for (code, a, operand, expected) in table {
            assert_eq!(run(&[insn(0, a), insn(code, operand), RETURN_A], &[], &[]), expected, "{code:#x}");
            let program = [insn(0, a), insn(0x01, operand), insn(code | 8, 0), RETURN_A];
            assert_eq!(run(&program, &[], &[]), expected, "{code:#x} with x");
        }
        assert_eq!(run(&[insn(0, 1), insn(0x84, 0), RETURN_A], &[], &[]), u32::MAX);
        for divide in [0x3c, 0x9c] {
            let program = [insn(0, 9), insn(divide, 0), insn(0, 1), RETURN_A];
            assert_eq!(run(&program, &[], &[]), 0, "{divide:#x} by zero rejects");
        }
    }

    #[test]
    fn branches_memory_and_moves() {
        for (code, k, taken) in [
            (0x15, 5, true),
            (0x15, 6, false),
            (0x25, 4, true),
            (0x25, 5, false),
            (0x35, 5, true),
            (0x35, 6, false),
            (0x45, 4, true),
            (0x45, 2, false),
        ] {
            let program = [insn(0, 5), jump(code, 1, 0, k), insn(6, 1), insn(6, 2)];
            assert_eq!(run(&program, &[], &[]) == 2, taken, "{code:#x} {k}");
            let program = [insn(0x01, k), insn(0, 5), jump(code | 8, 1, 0, 0), insn(6, 1), insn(6, 2)];
            assert_eq!(run(&program, &[], &[]) == 2, taken, "{code:#x} {k} with x");
        }
        let program = [insn(0, 9), insn(2, 15), insn(0, 0), insn(5, 1), insn(6, 1), insn(0x60, 15), RETURN_A];
        assert_eq!(run(&program, &[], &[]), 9);
        let through_x =
            [insn(0, 9), insn(7, 0), insn(3, 0), insn(1, 0), insn(0x61, 0), insn(0x87, 0), RETURN_A];
        assert_eq!(run(&through_x, &[], &[]), 9);
    }

    #[test]
    fn bad_programs_are_refused() {
        let end = insn(6, 0);
        let table: &[(&[Instruction], usize, &str)] = &[
            (&[], 0, "has to return"),
            (&[insn(0, 1)], 0, "has to return"),
            (&[insn(5, 1), end], 0, "jump out"),
            (&[insn(5, u32::MAX), end], 0, "jump out"),
            (&[jump(0x15, 1, 0, 0), end], 0, "jump out"),
            (&[jump(0x15, 0, 1, 0), end], 0, "jump out"),
            (&[end, insn(2, 16), end], 1, "scratch memory"),
            (&[insn(0x60, u32::MAX), end], 0, "scratch memory"),
            (&[insn(0x34, 0), end], 0, "division"),
            (&[insn(0x94, 0), end], 0, "division"),
            (&[insn(0xffff, 0), end], 0, "unknown"),
            (&[insn(0x0e, 0)], 0, "unknown"),
            (&[end; MAX_INSTRUCTIONS + 1], MAX_INSTRUCTIONS, "too many"),
        ];
        for (program, at, words) in table {
            let error = Program::new(program).unwrap_err();
            assert!(error.at == *at && error.to_string().contains(words), "{error}");
        }
        assert_eq!(run(&[end; MAX_INSTRUCTIONS], &[], &[]), 0);
    }
}
