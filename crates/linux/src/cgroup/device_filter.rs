//! The device list of cgroup v2: an eBPF program, because v2 has no files for it.
//!
//! The program looks at the rules from the last to the first, since later rules win, and denies what none speaks of.

use super::{DeviceKind, DeviceRule, Error, Result, file};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// One eBPF instruction.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination register in the low half, source in the high half.
    registers: u8,
    offset: i16,
    value: i32,
}

// Operation codes (class, size or operation, source).
const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbc;
const MOVE_VALUE: u8 = 0xb7;
const AND_VALUE: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_NOT_EQUAL: u8 = 0x56;
const JUMP_NOT_SAME: u8 = 0x5e;
const EXIT: u8 = 0x95;

// What the kernel hands over: struct bpf_cgroup_dev_ctx { access_type, major, minor }.
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const RESULT: u8 = 0;
const SCRATCH: u8 = 6;

const KIND_BLOCK: i32 = 1;
const KIND_CHAR: i32 = 2;
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;

const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, value }
}

fn compile(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        // The low half of access_type is the kind, the high half what is wanted.
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER, ACCESS, KIND, 0, 0),
        instruction(AND_VALUE, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let code = block(rule);
        let unconditional = code.len() == verdict(true).len();
        program.extend(code);
        if unconditional {
            return program; // the kernel refuses code that is never reached
        }
    }
    program.extend(verdict(false));
    program
}

fn verdict(allow: bool) -> [Instruction; 2] {
    [instruction(MOVE_VALUE, RESULT, 0, 0, allow.into()), instruction(EXIT, 0, 0, 0, 0)]
}

fn block(rule: &DeviceRule) -> Vec<Instruction> {
    let wanted = [(rule.mknod, ACCESS_MKNOD), (rule.read, ACCESS_READ), (rule.write, ACCESS_WRITE)]
        .iter()
        .fold(0, |all, (on, bit)| if *on { all | bit } else { all });
    let mut tests = Vec::new();
    match rule.kind {
        DeviceKind::All => {}
        DeviceKind::Block => tests.push(instruction(JUMP_NOT_EQUAL, KIND, 0, 0, KIND_BLOCK)),
        DeviceKind::Char => tests.push(instruction(JUMP_NOT_EQUAL, KIND, 0, 0, KIND_CHAR)),
    }
    if wanted != ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE {
        tests.push(instruction(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0));
        tests.push(instruction(AND_VALUE, SCRATCH, 0, 0, wanted));
        // An allow rule speaks of a request all of whose accesses it lists; a deny rule of one that has any of them.
        tests.push(if rule.allow {
            instruction(JUMP_NOT_SAME, SCRATCH, ACCESS, 0, 0)
        } else {
            instruction(0x16, SCRATCH, 0, 0, 0) // jump if equal to zero
        });
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            tests.push(instruction(JUMP_NOT_EQUAL, register, 0, 0, number as i32));
        }
    }
    tests.extend(verdict(rule.allow));
    // Every test jumps behind the verdict, that is to the next rule.
    let end = tests.len();
    for (at, test) in tests.iter_mut().enumerate() {
        if [JUMP_NOT_EQUAL, JUMP_NOT_SAME, 0x16].contains(&test.code) {
            test.offset = (end - at - 1) as i16;
        }
    }
    tests
}

#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROGRAM_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;

/// Puts the device list on a group, in place of one that was there.
pub(super) fn attach(dir: &Path, rules: &[DeviceRule]) -> Result<()> {
    let group = file::open_dir(dir)?;
    let program = load(&compile(rules)).map_err(|e| Error::io("load the device program of", dir, e))?;
    let attributes = AttachAttributes {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        flags: 0, // a second program takes the first one's place in one step
        replaced: 0,
    };
    // SAFETY: the struct is a prefix of the kernel's union, with its size, and outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attributes, size_of_val(&attributes)) };
    if result < 0 {
        return Err(Error::io("attach the device program to", dir, io::Error::last_os_error()));
    }
    Ok(())
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = LoadAttributes {
        kind: PROGRAM_CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        name: *b"wharf_devices\0\0\0",
        ..LoadAttributes::default()
    };
    // SAFETY: as above; program and licence outlive the call and are only read.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size_of_val(&attributes)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(
        allow: bool,
        kind: DeviceKind,
        major: Option<u32>,
        minor: Option<u32>,
        access: &str,
    ) -> DeviceRule {
        let has = |c| access.contains(c);
        DeviceRule { allow, kind, major, minor, read: has('r'), write: has('w'), mknod: has('m') }
    }

    /// Runs a program on one request.
    fn run(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> i32 {
        let mut r = [0i32; 7];
        let mut at = 0;
        loop {
            let i = program[at];
            let (to, from) = ((i.registers & 15) as usize, (i.registers >> 4) as usize);
            at += 1;
            let jump = match i.code {
                LOAD_WORD => {
                    r[to] = [kind | access << 16, major, minor][i.offset as usize / 4];
                    false
                }
                MOVE_REGISTER => {
                    r[to] = r[from];
                    false
                }
                MOVE_VALUE => {
                    r[to] = i.value;
                    false
                }
                AND_VALUE => {
                    r[to] &= i.value;
                    false
                }
                SHIFT_RIGHT => {
                    r[to] = ((r[to] as u32) >> i.value) as i32;
                    false
                }
                JUMP_NOT_EQUAL => r[to] != i.value,
                JUMP_NOT_SAME => r[to] != r[from],
                0x16 => r[to] == i.value,
                EXIT => return r[0],
                other => panic!("{other:#x}"),
            };
            if jump {
                at += i.offset as usize;
            }
        }
    }

    #[test]
    fn later_rules_win_and_the_default_is_no() {
        let rules = [
            rule(false, DeviceKind::All, None, None, "rwm"),
            rule(true, DeviceKind::Char, None, None, "m"),
            rule(true, DeviceKind::Char, Some(1), Some(3), "rwm"),
            rule(true, DeviceKind::Block, Some(8), None, "r"),
            rule(false, DeviceKind::Block, Some(8), Some(1), "r"),
        ];
        let program = compile(&rules);
        let cases = [
            (KIND_CHAR, ACCESS_MKNOD, 99, 9, 1),
            (KIND_CHAR, ACCESS_READ, 99, 9, 0),
            (KIND_CHAR, ACCESS_READ | ACCESS_WRITE, 1, 3, 1),
            (KIND_BLOCK, ACCESS_READ, 8, 0, 1),
            (KIND_BLOCK, ACCESS_READ | ACCESS_WRITE, 8, 0, 0),
            (KIND_BLOCK, ACCESS_READ, 8, 1, 0),
            (KIND_BLOCK, ACCESS_MKNOD, 8, 0, 0),
        ];
        for (kind, access, major, minor, expected) in cases {
            assert_eq!(
                run(&program, kind, access, major, minor),
                expected,
                "{kind} {access} {major}:{minor}"
            );
        }
        assert_eq!(run(&compile(&[]), KIND_CHAR, ACCESS_READ, 1, 3), 0);
    }

    #[test]
    fn the_kernel_verifies_it() {
        let rules = [
            rule(false, DeviceKind::All, None, None, "rwm"),
            rule(true, DeviceKind::Char, Some(1), None, "rw"),
            rule(false, DeviceKind::Char, Some(1), Some(11), "w"),
        ];
        load(&compile(&rules)).unwrap();
    }
}
