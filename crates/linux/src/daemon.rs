//! What a small, long-lived process does to itself: survive signals, hold little memory.

use std::io;

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

/// Gives freed heap memory back to the kernel.
pub fn release_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc's allocator takes its own locks; nothing that is in use is touched.
    unsafe {
        libc::malloc_trim(0);
    }
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
    fn the_heap_can_be_trimmed() {
        drop(vec![1u8; 1 << 20]);
        release_heap();
    }
}
