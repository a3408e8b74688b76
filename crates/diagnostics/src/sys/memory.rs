//! Reading memory that may not be there, of this process or another, and giving back what is not needed.

use std::io;

/// The smallest page of all architectures: what is there is there in multiples of it.
const PAGE: u64 = 4096;

/// How many pages are asked for at once. The list of them is on the stack, which in a signal handler is small.
const PAGES: usize = 64;

/// Copies what is at an address, as far as it is mapped and readable. Returns the number of bytes.
pub(crate) fn read_into(process_id: u32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;

    while done < buffer.len() {
        let rest = buffer.get_mut(done..).unwrap_or_default();
        let (wanted, result) = read_pages(process_id, address.wrapping_add(done as u64), rest);

        match result {
            Ok(read) => {
                done += read;
                if read < wanted {
                    break;
                }
            }
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }

    Ok(done)
}

/// Reads up to [`PAGES`]; gives how much was asked for, and how much came.
fn read_pages(process_id: u32, address: u64, buffer: &mut [u8]) -> (usize, io::Result<usize>) {
    let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let mut remote = [empty; PAGES];
    let mut wanted = 0;
    let mut count = 0;

    // The kernel reads each piece as a whole or not at all, so each is a page, or what is needed of one.
    for piece in &mut remote {
        let at = address.wrapping_add(wanted as u64);
        let length = ((PAGE - at % PAGE) as usize).min(buffer.len() - wanted);

        if length == 0 {
            break;
        }

        *piece = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: length };
        wanted += length;
        count += 1;
    }

    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: wanted };
    // SAFETY: the one local vector is the beginning of the buffer, which is ours to write; the remote ones are checked by
    // the kernel, which answers EFAULT for what is not mapped.
    let read = unsafe { libc::process_vm_readv(process_id as libc::pid_t, &local, 1, remote.as_ptr(), count, 0) };
    (wanted, usize::try_from(read).map_err(|_| io::Error::last_os_error()))
}

/// The size of a page, in bytes.
pub(crate) fn page_size() -> u64 {
    // SAFETY: it is asked for a number that does not change. The C library knows it also where the kernel's own pages are not
    // mapped, as in an emulator.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

/// A copy of what is at an address. `None` if not all of it is there.
pub(crate) fn read(process_id: u32, address: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    (read_into(process_id, address, &mut bytes).ok()? == length).then_some(bytes)
}

/// Has the C library give memory to the system that was freed. Others than that of GNU do so by themselves, or cannot.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time, and takes the locks that it needs.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_read_and_what_is_not_there_is_not() {
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|number| number as u8).collect();
        let own = std::process::id();
        let address = bytes.as_ptr() as u64;
        assert_eq!(read(own, address, bytes.len()).as_deref(), Some(&bytes[..]));
        assert_eq!(read(own, 8, 1), None);
    }

    #[test]
    fn what_ends_in_the_middle_is_read_as_far_as_it_goes() {
        let first = super::super::ranges::read().unwrap().into_iter().find(|range| range.is_first).unwrap();
        let mut buffer = vec![0; 1 << 20];
        let near_end = first.addresses.end - 5000;
        assert_eq!(read_into(std::process::id(), near_end, &mut buffer).unwrap(), 5000);
    }
}
