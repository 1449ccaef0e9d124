//! What a small, long-lived process does to itself: survive signals, keep its descriptors and its memory to itself.

use std::io;
use std::os::fd::RawFd;

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

/// Marks every descriptor from `first` on close-on-exec, whatever the parent process left open.
pub fn seal_descriptors(first: RawFd) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: this only sets flags of descriptors.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC as libc::c_int,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
    use std::os::fd::AsRawFd;

    #[test]
    fn a_disarmed_signal_does_nothing() {
        disarm(&[libc::SIGUSR2]).unwrap();
        // SAFETY: the signal is handled.
        unsafe { libc::raise(libc::SIGUSR2) };
    }

    #[test]
    fn inherited_descriptors_are_sealed() {
        let file = std::fs::File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        // Only this one descriptor and later ones, all of which Rust has made close-on-exec anyway.
        seal_descriptors(file.as_raw_fd()).unwrap();
        assert!(rustix::io::fcntl_getfd(&file).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn the_heap_can_be_trimmed() {
        drop(vec![1u8; 1 << 20]);
        release_heap();
    }
}
