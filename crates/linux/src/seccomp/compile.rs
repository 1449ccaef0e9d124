//! From a policy to instructions.
//!
//! Almost all leaves of the tree are one instruction; only conditions on arguments need more. Jumps go forward only, as
//! BPF demands.

use super::{Action, ArchRules, Compare, CompileError, Condition, Instruction, Policy, Program, Rule};

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_EQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_GT: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const JUMP_GE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

// struct seccomp_data: nr, arch, instruction_pointer, args[6].
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

const MAX_INSTRUCTIONS: usize = 4096;

const fn op(code: u16, value: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, value }
}

const fn branch(code: u16, value: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, value }
}

/// Compiles a policy.
pub fn compile(policy: &Policy) -> Result<Program, CompileError> {
    let mut program = vec![op(LOAD, OFFSET_ARCH)];
    for arch in &policy.arches {
        // If it is not this architecture, cross its part; that may be further than a conditional jump reaches.
        program.extend([branch(JUMP_EQ, arch.arch, 1, 0), op(JUMP, 0), op(LOAD, OFFSET_NR)]);
        let start = program.len();
        emit_tree(&leaves(arch, policy)?, &mut program);
        program[start - 2].value = 1 + (program.len() - start) as u32;
    }
    program.push(op(RETURN, policy.other_arch.code()));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(CompileError::TooLong(program.len()));
    }
    Ok(Program(program))
}

/// The numbers from `first` up to the next leaf's, and what to do with them.
struct Leaf {
    first: u32,
    code: Code,
}

#[derive(PartialEq, Eq)]
enum Code {
    Always(Action),
    Depends(Vec<Instruction>),
}

/// Cuts the numbers into ranges with one answer each.
fn leaves(arch: &ArchRules, policy: &Policy) -> Result<Vec<Leaf>, CompileError> {
    let fallback = |number: u32| {
        let range = arch.ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&number));
        range.map_or(policy.default, |(_, _, action)| *action)
    };
    let mut calls = arch.calls.clone();
    calls.sort_by_key(|(number, _)| *number); // stable: the rules of a number keep their order
    // Every number at which the answer may change.
    let mut edges: Vec<u32> = Vec::with_capacity(2 * calls.len() + 2 * arch.ranges.len() + 1);
    edges.push(0);
    edges.extend(calls.iter().flat_map(|(number, _)| [*number, number.saturating_add(1)]));
    edges.extend(arch.ranges.iter().flat_map(|(first, last, _)| [*first, last.saturating_add(1)]));
    edges.sort_unstable();
    edges.dedup();
    let mut leaves: Vec<Leaf> = Vec::new();
    let mut rest = &calls[..];
    for first in edges {
        let own = rest.iter().take_while(|(number, _)| *number == first).count();
        let (own, behind) = rest.split_at(own);
        rest = behind;
        let code = answer(own.iter().map(|(_, rule)| &policy.rules[*rule]), fallback(first))?;
        if leaves.last().is_none_or(|last| last.code != code) {
            leaves.push(Leaf { first, code });
        }
    }
    Ok(leaves)
}

/// A balanced tree of comparisons over the leaves, in the order: comparison, lower half, upper half.
fn emit_tree(leaves: &[Leaf], out: &mut Vec<Instruction>) {
    let (low, high) = leaves.split_at(leaves.len() / 2);
    let [pivot, ..] = high else { return };
    if low.is_empty() {
        match &pivot.code {
            Code::Always(action) => out.push(op(RETURN, action.code())),
            Code::Depends(code) => out.extend(code),
        }
        return;
    }
    let at = out.len();
    out.push(branch(JUMP_GE, pivot.first, 0, 0));
    emit_tree(low, out);
    let distance = out.len() - at - 1;
    match u8::try_from(distance) {
        Ok(distance) => out[at].jump_true = distance,
        Err(_) => {
            // Too far for a conditional jump. Jumps inside the half are relative and move with it.
            out[at].jump_false = 1;
            out.insert(at + 1, op(JUMP, distance as u32));
        }
    }
    emit_tree(high, out);
}

/// What happens to a call with these rules.
fn answer<'a>(rules: impl Iterator<Item = &'a Rule>, fallback: Action) -> Result<Code, CompileError> {
    let mut conditional = Vec::new();
    let mut last = fallback;
    for rule in rules {
        if rule.conditions.is_empty() {
            // Rules behind one that always holds can never be reached.
            last = rule.action;
            break;
        }
        conditional.push(rule);
    }
    if conditional.is_empty() {
        return Ok(Code::Always(last));
    }
    let mut tail = vec![op(RETURN, last.code())];
    for rule in conditional.iter().rev() {
        let mut code = vec![op(RETURN, rule.action.code())];
        for condition in rule.conditions.iter().rev() {
            let mut test = test(condition, code.len())?;
            test.append(&mut code);
            code = test;
        }
        code.append(&mut tail);
        tail = code;
    }
    Ok(Code::Depends(tail))
}

/// Code that falls through if the condition holds and else jumps over the `rest` instructions that follow it.
fn test(condition: &Condition, rest: usize) -> Result<Vec<Instruction>, CompileError> {
    if condition.argument > 5 {
        return Err(CompileError::Argument(condition.argument));
    }
    let fail = |after: usize| u8::try_from(after + rest).map_err(|_| CompileError::TooManyConditions);
    let low_offset = OFFSET_ARGS + 8 * u32::from(condition.argument);
    let (load_high, load_low) = (op(LOAD, low_offset + 4), op(LOAD, low_offset));
    let (high, low) = ((condition.value >> 32) as u32, condition.value as u32);
    Ok(match condition.compare {
        Compare::Equal => {
            vec![load_high, branch(JUMP_EQ, high, 0, fail(2)?), load_low, branch(JUMP_EQ, low, 0, fail(0)?)]
        }
        Compare::NotEqual => {
            vec![load_high, branch(JUMP_EQ, high, 0, 2), load_low, branch(JUMP_EQ, low, fail(0)?, 0)]
        }
        Compare::Greater | Compare::GreaterOrEqual => {
            let code = if condition.compare == Compare::Greater { JUMP_GT } else { JUMP_GE };
            vec![
                load_high,
                branch(JUMP_GT, high, 3, 0),
                branch(JUMP_EQ, high, 0, fail(2)?),
                load_low,
                branch(code, low, 0, fail(0)?),
            ]
        }
        Compare::Less | Compare::LessOrEqual => {
            let code = if condition.compare == Compare::Less { JUMP_GE } else { JUMP_GT };
            vec![
                load_high,
                branch(JUMP_GT, high, fail(3)?, 0),
                branch(JUMP_EQ, high, 0, 2),
                load_low,
                branch(code, low, fail(0)?, 0),
            ]
        }
        Compare::Masked(mask) => vec![
            load_high,
            op(AND, (mask >> 32) as u32),
            branch(JUMP_EQ, high, 0, fail(3)?),
            load_low,
            op(AND, mask as u32),
            branch(JUMP_EQ, low, 0, fail(0)?),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::super::{ARCH_X86, ARCH_X86_64, evaluate};
    use super::*;

    fn policy(rules: &[(u32, Vec<Rule>)]) -> Policy {
        let (mut all, mut calls) = (Vec::new(), Vec::new());
        for (number, rules) in rules.iter().rev() {
            for rule in rules {
                calls.push((*number, all.len()));
                all.push(rule.clone());
            }
        }
        let ranges = vec![(900, u32::MAX, Action::Errno(38))];
        Policy {
            default: Action::Errno(1),
            other_arch: Action::KillProcess,
            rules: all,
            arches: vec![ArchRules { arch: ARCH_X86_64, calls, ranges }],
        }
    }

    fn allow(conditions: Vec<Condition>) -> Rule {
        Rule { conditions, action: Action::Allow }
    }

    #[test]
    fn every_number_gets_its_own_answer() {
        let rules: Vec<_> = (0..700).filter(|n| n % 3 == 0).map(|n| (n, vec![allow(vec![])])).collect();
        let program = compile(&policy(&rules)).unwrap();
        for number in (0..1000).chain([u32::MAX, 0x4000_0000]) {
            let expected = match number {
                0..700 if number % 3 == 0 => Action::Allow,
                900.. => Action::Errno(38),
                _ => Action::Errno(1),
            };
            assert_eq!(evaluate(&program, ARCH_X86_64, number, [0; 6]), expected.code(), "{number}");
        }
        assert_eq!(evaluate(&program, ARCH_X86, 0, [0; 6]), Action::KillProcess.code());
    }

    #[test]
    fn comparisons_are_those_of_64_bit_numbers() {
        type Check = fn(u64, u64) -> bool;
        let kinds: [(Compare, Check); 7] = [
            (Compare::Equal, |a, v| a == v),
            (Compare::NotEqual, |a, v| a != v),
            (Compare::Less, |a, v| a < v),
            (Compare::LessOrEqual, |a, v| a <= v),
            (Compare::Greater, |a, v| a > v),
            (Compare::GreaterOrEqual, |a, v| a >= v),
            (Compare::Masked(0xff_0000_00ff), |a, v| a & 0xff_0000_00ff == v),
        ];
        let samples = [
            0,
            1,
            2,
            0xff,
            u64::from(u32::MAX),
            1 << 32,
            (1 << 32) + 1,
            0xff_0000_0001,
            u64::MAX - 1,
            u64::MAX,
        ];
        for (compare, check) in kinds {
            for value in samples {
                let rule = allow(vec![Condition { argument: 2, compare, value }]);
                let program = compile(&policy(&[(5, vec![rule])])).unwrap();
                for argument in samples {
                    let expected = if check(argument, value) { Action::Allow } else { Action::Errno(1) };
                    let result = evaluate(&program, ARCH_X86_64, 5, [7, 7, argument, 7, 7, 7]);
                    assert_eq!(result, expected.code(), "{compare:?} {argument:#x} {value:#x}");
                }
            }
        }
    }

    #[test]
    fn all_conditions_of_a_rule_and_any_rule_of_a_call() {
        let not = |value| Condition { argument: 0, compare: Compare::NotEqual, value };
        let is = |value| Condition { argument: 0, compare: Compare::Equal, value };
        let both = compile(&policy(&[(41, vec![allow(vec![not(38), not(40)])])])).unwrap();
        let any = compile(&policy(&[(41, vec![allow(vec![is(1)]), allow(vec![is(2)])])])).unwrap();
        for family in 0..64 {
            let code = |ok: bool| if ok { Action::Allow } else { Action::Errno(1) }.code();
            let arguments = [family, 0, 0, 0, 0, 0];
            assert_eq!(evaluate(&both, ARCH_X86_64, 41, arguments), code(family != 38 && family != 40));
            assert_eq!(evaluate(&any, ARCH_X86_64, 41, arguments), code(family == 1 || family == 2));
        }
    }

    #[test]
    fn limits_are_errors() {
        let condition = |argument| Condition { argument, compare: Compare::Equal, value: 1 };
        let bad = compile(&policy(&[(1, vec![allow(vec![condition(6)])])]));
        assert_eq!(bad, Err(CompileError::Argument(6)));
        let many = compile(&policy(&[(1, vec![allow(vec![condition(0); 100])])]));
        assert_eq!(many, Err(CompileError::TooManyConditions));
        let rules: Vec<_> = (0..1500).map(|n| (n, vec![allow(vec![condition(1)])])).collect();
        assert!(matches!(compile(&policy(&rules)), Err(CompileError::TooLong(_)) | Ok(_)));
    }
}
