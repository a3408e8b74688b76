//! A client of the application that connects without pause.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// A thread that connects, is answered, and connects again.
pub(super) struct Client {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Tally>,
}

/// What the client has met with.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) answered: u64,
    pub(super) refused: u64,
    /// Accepted, but not answered, and why.
    pub(super) broken: Vec<String>,
}

impl Client {
    pub(super) fn start(address: &str) -> Client {
        let done = Arc::new(AtomicBool::new(false));
        let (address, until) = (address.to_owned(), Arc::clone(&done));
        let thread = thread::spawn(move || {
            let mut tally = Tally::default();
            while !until.load(Ordering::Relaxed) {
                match exchange(&address) {
                    Ok(()) => tally.answered += 1,
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => tally.refused += 1,
                    Err(error) => tally.broken.push(error.to_string()),
                }
            }
            tally
        });
        Client { done, thread }
    }

    pub(super) fn stop(self) -> Tally {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn exchange(address: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"hello")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer == b"hello" { Ok(()) } else { Err(io::Error::other(format!("{} bytes came back", answer.len()))) }
}
