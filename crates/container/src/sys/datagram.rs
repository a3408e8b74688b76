//! Datagrams with what the kernel says about their senders.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::process::Pid;

/// The most descriptors that a datagram can carry: `SCM_MAX_FD` of the kernel.
const DESCRIPTORS: usize = 253;

/// Room for what comes beside a datagram, in units that are aligned as its headers must be.
const CONTROL: usize = {
    // SAFETY: computes lengths.
    let bytes = unsafe {
        libc::CMSG_SPACE(size_of::<libc::ucred>() as libc::c_uint)
            + libc::CMSG_SPACE((DESCRIPTORS * size_of::<libc::c_int>()) as libc::c_uint)
    };
    (bytes as usize).div_ceil(size_of::<u64>())
};

/// A datagram.
#[derive(Debug)]
pub(crate) struct Received {
    pub length: usize,
    /// True if it was longer than the buffer.
    pub truncated: bool,
    /// The process that sent it, by the kernel's word; `None` if it is in a pid namespace that is not seen from here.
    pub sender: Option<Pid>,
    /// What it carried. They are closed on drop.
    pub descriptors: Vec<OwnedFd>,
}

/// Takes the next datagram from a socket with `SO_PASSCRED`. Does not block.
///
/// rustix would do, did it not take the process id for one that is never 0.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = [0u64; CONTROL];
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is an empty message header, whose padding differs between C libraries.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC | libc::MSG_TRUNC;
    // SAFETY: the header leads to one vector and to the control buffer, each with its true length; both outlive the call.
    let length = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, flags) };
    let Ok(length) = usize::try_from(length) else {
        return Err(io::Error::last_os_error());
    };
    let mut sender = None;
    let mut descriptors = Vec::new();
    // SAFETY: the kernel has set the length of the control data, and the macros stay within it. The data of a
    // header of these kinds are credentials, and descriptors that were made for this call and that nobody else knows;
    // they are read unaligned, and no further than the header says.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(&raw const header);
        while let Some(message) = next.as_ref() {
            let data = libc::CMSG_DATA(next);
            // The type of the length differs between C libraries.
            let length: usize = message.cmsg_len as _;
            let size = length.saturating_sub(libc::CMSG_LEN(0) as usize);
            match (message.cmsg_level, message.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if size >= size_of::<libc::ucred>() => {
                    sender = Pid::from_raw(data.cast::<libc::ucred>().read_unaligned().pid.max(0));
                }
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    let numbers = data.cast::<libc::c_int>();
                    for index in 0..size / size_of::<libc::c_int>() {
                        descriptors.push(OwnedFd::from_raw_fd(numbers.add(index).read_unaligned()));
                    }
                }
                _ => {}
            }
            next = libc::CMSG_NXTHDR(&raw const header, next);
        }
    }
    Ok(Received { length: length.min(buffer.len()), truncated: length > buffer.len(), sender, descriptors })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_datagram_has_its_sender_and_descriptors() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        rustix::net::sockopt::set_socket_passcred(&ours, true).unwrap();
        theirs.send(b"READY=1\n").unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        let passed = [write.as_fd()];
        assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&passed)));
        let text = [io::IoSlice::new(b"BARRIER=1")];
        rustix::net::sendmsg(&theirs, &text, &mut control, rustix::net::SendFlags::empty()).unwrap();
        drop(write);

        let mut buffer = [0; 8];
        let received = receive(&ours, &mut buffer).unwrap();
        assert_eq!((received.length, received.truncated), (8, false));
        assert_eq!(received.sender, Some(rustix::process::getpid()));
        assert!(received.descriptors.is_empty());
        let received = receive(&ours, &mut buffer).unwrap();
        assert_eq!((received.length, received.truncated, received.descriptors.len()), (8, true, 1));
        // The other end of the pipe is held by nothing but what came with the datagram.
        drop(received);
        assert_eq!(rustix::io::read(&read, &mut buffer).unwrap(), 0);
        assert_eq!(receive(&ours, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
