//! The program that is restarted in `cargo xtask bench restart`: tells when it began to run, and does nothing more.
#![forbid(unsafe_code)]

use std::{env, os::unix::net::UnixDatagram, process};

use rustix::{
    event::pause,
    time::{ClockId, clock_gettime},
};

fn main() {
    let now = clock_gettime(ClockId::Monotonic);
    let Some(socket) = env::args_os().nth(1) else {
        eprintln!(
            "usage: xtask-stamp SOCKET\nwhere SOCKET is the path of a Unix datagram socket that the time is sent to"
        );
        process::exit(2);
    };
    let message = format!("{} {} {}", process::id(), now.tv_sec, now.tv_nsec);
    let sent = UnixDatagram::unbound().and_then(|stamp| stamp.send_to(message.as_bytes(), &socket));
    if let Err(error) = sent {
        eprintln!("could not send to {}: {error}", socket.display());
        process::exit(1);
    }
    loop {
        pause();
    }
}
