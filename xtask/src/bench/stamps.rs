//! The times at which programs began to run, as `xtask-stamp` tells them.

use std::{
    io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

use crate::Result;

/// How long a program that was killed may take to be there again before the measuring gives up.
const LIMIT: Duration = Duration::from_secs(10);

/// A moment on the clock that all processes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(Duration);

impl Moment {
    pub(super) fn now() -> Moment {
        let now = clock_gettime(ClockId::Monotonic);
        Moment(Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0)))
    }

    pub(super) fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where programs tell that they began.
#[derive(Debug)]
pub(super) struct Stamps {
    socket: UnixDatagram,
    path: PathBuf,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    pub(super) pid: u32,
    pub(super) at: Moment,
}

impl Stamps {
    pub(super) fn bind(path: PathBuf) -> Result<Stamps> {
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(Stamps { socket, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The next stamp, whoever it is from.
    pub(super) fn next(&self) -> Result<Stamp> {
        let mut buffer = [0; 128];
        let length = self.socket.recv(&mut buffer).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                format!("no program began to run within {} s", LIMIT.as_secs())
            }
            _ => format!("could not read when a program began to run: {error}"),
        })?;
        let text = std::str::from_utf8(&buffer[..length])?;
        parse(text).ok_or_else(|| format!("`{text}` is no stamp").into())
    }
}

fn parse(text: &str) -> Option<Stamp> {
    let mut fields = text.split(' ');
    let pid = fields.next()?.parse().ok()?;
    let at = Moment(Duration::new(fields.next()?.parse().ok()?, fields.next()?.parse().ok()?));
    fields.next().is_none().then_some(Stamp { pid, at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_has_three_fields() {
        let stamp = parse("12 3 4").unwrap();
        assert_eq!((stamp.pid, stamp.at), (12, Moment(Duration::new(3, 4))));
        assert!(parse("12 3").is_none() && parse("12 3 4 5").is_none() && parse("a 3 4").is_none());
    }

    #[test]
    fn the_clock_does_not_go_back() {
        let first = Moment::now();
        let second = Moment::now();
        assert!(second >= first);
        assert_eq!(first.since(second), Duration::ZERO);
    }
}
