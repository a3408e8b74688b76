//! Reading memory that may not be there, of this process or another.

use std::io;

/// Copies what is at an address, as far as it is mapped and readable. Returns the number of bytes.
pub(crate) fn read_into(process_id: u32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: buffer.len() };
    // SAFETY: the one local vector is the buffer, which is ours to write; the remote one is checked by the kernel, which
    // answers EFAULT for what is not mapped.
    let read = unsafe { libc::process_vm_readv(process_id as libc::pid_t, &local, 1, &remote, 1, 0) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// A copy of what is at an address. `None` if not all of it is there.
pub(crate) fn read(process_id: u32, address: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    (read_into(process_id, address, &mut bytes).ok()? == length).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_read_and_what_is_not_there_is_not() {
        let bytes = *b"some bytes";
        let own = std::process::id();
        assert_eq!(read(own, bytes.as_ptr() as u64, bytes.len()).as_deref(), Some(&bytes[..]));
        assert_eq!(read(own, 8, 1), None);
    }
}
