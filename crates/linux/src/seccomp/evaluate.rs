//! Runs a compiled filter as the kernel would, to ask what it says about a call.

use super::Program;

const CLASS: u16 = 0x07;

/// What the filter returns for one call: an [`Action::code`](super::Action::code).
pub fn evaluate(program: &Program, arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let load = |offset: u32| match offset {
        0 => number,
        4 => arch,
        8 | 12 => 0,
        _ => {
            let argument = arguments[(offset as usize - 16) / 8];
            if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
        }
    };
    let mut accumulator = 0;
    let mut at = 0;
    loop {
        let instruction = program.0[at];
        at += 1;
        let taken = |yes: bool| usize::from(if yes { instruction.jump_true } else { instruction.jump_false });
        match u32::from(instruction.code & CLASS) {
            libc::BPF_LD => accumulator = load(instruction.value),
            libc::BPF_ALU => accumulator &= instruction.value,
            libc::BPF_RET => return instruction.value,
            _ => {
                at += match u32::from(instruction.code & 0xf0) {
                    libc::BPF_JA => instruction.value as usize,
                    libc::BPF_JEQ => taken(accumulator == instruction.value),
                    libc::BPF_JGT => taken(accumulator > instruction.value),
                    _ => taken(accumulator >= instruction.value),
                }
            }
        }
    }
}
