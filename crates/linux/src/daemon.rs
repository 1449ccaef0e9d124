//! What a small, long-lived process does to itself: survive signals, hold little memory.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

extern "C" fn nothing(_signal: libc::c_int) {}

/// Makes `signals` do nothing. Unlike ignored ones they are back to their default in a program this process executes,
/// and a blocking system call returns with EINTR.
pub fn disarm(signals: &[i32]) -> io::Result<()> {
    for &signal in signals {
        // SAFETY: an all-zero sigaction is a valid one (empty mask, no flags); the handler touches nothing, so it is
        // safe in any context.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut())
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Tells the service manager that started this process, if it wants to know, how far it is: `READY=1`, `STOPPING=1`.
pub fn notify(state: &str) -> io::Result<()> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match name.as_encoded_bytes() {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name)?,
        _ => SocketAddr::from_pathname(&name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(|_| ())
}

/// Lets threads share `count` heaps. By default there are eight for each CPU, and what is freed in one serves no thread of
/// another. To be called before there are threads.
pub fn share_heaps(count: usize) {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number in glibc's allocator, which takes its own lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, i32::try_from(count.max(1)).unwrap_or(i32::MAX));
    }
}

/// Gives freed heap memory back to the kernel.
pub fn release_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc's allocator takes its own locks; nothing that is in use is touched.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Takes the program's code and constants out of this process's memory. What is needed again comes back from the page
/// cache: a program that has done the large part of its work holds only the small one.
pub fn release_code() {
    unsafe extern "C" {
        // Defined by the linker: the beginning of the program and the end of its code.
        static __executable_start: u8;
        static etext: u8;
    }
    let page = page_size();
    let start = (&raw const __executable_start).addr().next_multiple_of(page);
    let end = (&raw const etext).addr() / page * page;
    if start < end {
        // SAFETY: linkers put what is ever written (also by relocation) behind the code, so these pages are clean
        // copies of the file, and dropping them is invisible. A failure changes nothing.
        unsafe {
            libc::madvise(
                (&raw const __executable_start).cast_mut().with_addr(start).cast(),
                end - start,
                libc::MADV_DONTNEED,
            );
        }
    }
}

/// How much of the stack below a caller the way to the system call may need, and how much below that is looked at.
const STACK_NEAR: usize = 16 << 10;
const STACK_FAR: usize = 256 << 10;

/// Gives back what deep calls of the past have left of the main thread's stack; on other threads it does nothing.
pub fn release_stack() {
    if rustix::thread::gettid() != rustix::process::getpid() {
        return;
    }
    let here = 0u8;
    let near = &raw const here;
    let end = (near.addr() - STACK_NEAR) / page_size() * page_size();
    // SAFETY: what lies further below the stack pointer of the main thread than the few frames that `STACK_NEAR` leaves
    // alone belongs to calls that have ended, and comes back as zeroes when the stack grows into it. Nothing else is
    // there: the kernel maps nothing within 128 MB of that stack. A part that is not mapped changes nothing.
    unsafe {
        libc::madvise(near.cast_mut().with_addr(end - STACK_FAR).cast(), STACK_FAR, libc::MADV_DONTNEED);
    }
}

fn page_size() -> usize {
    // SAFETY: asks for a number.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(1 << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disarmed_signal_does_nothing() {
        disarm(&[libc::SIGUSR2]).unwrap();
        // SAFETY: the signal is handled.
        unsafe { libc::raise(libc::SIGUSR2) };
    }

    #[test]
    fn memory_can_be_released_and_the_program_goes_on() {
        share_heaps(2);
        drop(vec![1u8; 1 << 20]);
        release_heap();
        release_code();
        release_stack();
        assert_eq!(format!("{:?}", [1, 2].map(|n| n * 2)), "[2, 4]");
    }
}
