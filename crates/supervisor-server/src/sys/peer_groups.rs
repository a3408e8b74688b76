//! The supplementary groups of whoever connected, as they were at that moment.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// `SO_PEERGROUPS` (Linux 4.13), which the C library's bindings do not name. It is the same number on all architectures but the
/// two that have numbers of their own for all options of sockets.
const SO_PEERGROUPS: libc::c_int = if cfg!(any(target_arch = "sparc", target_arch = "sparc64")) { 0x003d } else { 59 };

/// How many there is room for at first. Few users have more.
const USUAL: usize = 64;

/// Asks the kernel. `Unsupported` where it does not know of this.
pub(crate) fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let socket = socket.as_fd();
    let mut groups: Vec<libc::gid_t> = vec![0; USUAL];

    loop {
        let room = groups.len() * size_of::<libc::gid_t>();
        let mut length = room as libc::socklen_t;

        // SAFETY: the pointer is to `length` bytes that are initialised and that nobody else has, any value of which is a number
        // of a group; the kernel writes no more than that, and the length. The descriptor is borrowed, so it is open.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };

        let needed = length as usize / size_of::<libc::gid_t>();

        if result == 0 {
            groups.truncate(needed);
            return Ok(groups);
        }

        let error = io::Error::last_os_error();

        match error.raw_os_error() {
            // It says how much room it takes.
            Some(libc::ERANGE) if needed > groups.len() => groups.resize(needed, 0),
            Some(libc::ENOPROTOOPT) => return Err(io::ErrorKind::Unsupported.into()),
            _ => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn groups_are_those_of_the_process() {
        let (one, _other) = UnixStream::pair().unwrap();

        let Ok(mut groups) = peer_groups(&one) else {
            println!("skipped: the kernel does not tell the groups of a peer");
            return;
        };

        let mut own: Vec<u32> = rustix::process::getgroups().unwrap().into_iter().map(|group| group.as_raw()).collect();
        groups.sort_unstable();
        own.sort_unstable();
        assert_eq!(groups, own);
    }

    #[test]
    fn what_is_no_socket_has_no_peer() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(peer_groups(&file).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }
}
