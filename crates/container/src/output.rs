//! Captured output: what a command writes becomes events of the log.
//!
//! The root reads as fast as it can log, within bounds: a stream that brings more than its share of lines or bytes in
//! a tenth of a second is not read again before the next one. Its writer waits meanwhile, as writers to a pipe do, but never
//! for longer than that; nothing is lost, and neither does the root do nothing else nor does it grow.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// The longest line, in bytes. A longer one is logged in pieces.
const LINE_LIMIT: usize = 16 * 1024;

/// What is read at a time.
const CHUNK: usize = 16 * 1024;

/// How long a share has to do.
const WINDOW: Duration = Duration::from_millis(100);

/// The share of a stream: lines, and bytes.
const LINES: usize = 1_000;
const BYTES: usize = 256 * 1024;

/// What is still logged of a stream when its process has ended. A pipe holds 64 KiB by default.
const LAST_LINES: usize = 10_000;

/// What is still read then, if only in order to count lines.
const LAST_BYTES: usize = 1024 * 1024;

/// Which of a command's streams it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl fmt::Display for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        })
    }
}

/// The root's end of a stream.
#[derive(Debug)]
pub(crate) struct Output {
    pub stream: Stream,
    pipe: OwnedFd,
    lines: Lines,
    share: Share,
}

/// What follows a reading.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// There may be more later.
    Wait,
    /// It is not to be read before then.
    Pause(Instant),
    /// Nobody can write any more.
    Close,
}

/// What is left of a share.
#[derive(Debug)]
struct Share {
    until: Option<Instant>,
    lines: usize,
    bytes: usize,
}

/// What of the last output could not be logged.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub lines: usize,
    pub bytes: usize,
}

/// A line, or a piece of one that is too long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Without its end; what is no UTF-8 is replaced.
    pub text: String,
    /// True if another piece of the same line follows.
    pub continued: bool,
    /// What it took of the stream.
    length: usize,
}

impl Output {
    /// The pipe must not block.
    pub(crate) fn new(stream: Stream, pipe: OwnedFd) -> Self {
        Output { stream, pipe, lines: Lines::default(), share: Share { until: None, lines: 0, bytes: 0 } }
    }

    /// Reads and logs a part of what there is.
    pub(crate) fn read(&mut self, now: Instant, mut log: impl FnMut(Line)) -> Next {
        let until = match self.share.until {
            Some(until) if now < until => until,
            _ => {
                self.share = Share { until: Some(now + WINDOW), lines: LINES, bytes: BYTES };
                now + WINDOW
            }
        };
        let mut buffer = [0; CHUNK];
        loop {
            // What there was no share for the last time comes first.
            while self.share.lines > 0
                && let Some(line) = self.lines.next()
            {
                self.share.lines -= 1;
                log(line);
            }
            if self.share.lines == 0 || self.share.bytes == 0 {
                return Next::Pause(until);
            }
            match rustix::io::read(&self.pipe, &mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    self.share.bytes = self.share.bytes.saturating_sub(length);
                    self.lines.push(&buffer[..length]);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Next::Wait,
                Err(_) => break,
            }
        }
        self.lines.last().into_iter().for_each(log);
        Next::Close
    }

    /// Reads and logs what is left when the process has ended. Others may have the stream still, and write without end, so
    /// this is bounded; what is beyond is counted.
    pub(crate) fn finish(mut self, mut log: impl FnMut(Line)) -> Dropped {
        let mut dropped = Dropped::default();
        let mut left = LAST_LINES;
        let mut log = |line: Line| {
            if left > 0 {
                left -= 1;
                log(line);
            } else {
                dropped.lines += 1;
                dropped.bytes += line.length;
            }
        };
        let mut buffer = [0; CHUNK];
        let mut read = 0;
        loop {
            while let Some(line) = self.lines.next() {
                log(line);
            }
            if read >= LAST_BYTES {
                break;
            }
            match rustix::io::read(&self.pipe, &mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    read += length;
                    self.lines.push(&buffer[..length]);
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        self.lines.last().into_iter().for_each(log);
        if read >= LAST_BYTES {
            let unread = rustix::io::ioctl_fionread(&self.pipe).unwrap_or(0);
            dropped.bytes += usize::try_from(unread).unwrap_or(usize::MAX);
        }
        dropped
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// Splits a stream into lines.
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Up to where there is no line's end.
    searched: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next line that is complete, or a piece of one that is too long.
    fn next(&mut self) -> Option<Line> {
        let limit = self.bytes.len().min(self.start + LINE_LIMIT + 1);
        if let Some(length) = self.bytes[self.searched..limit].iter().position(|byte| *byte == b'\n') {
            let end = self.searched + length;
            return Some(self.take(end, end + 1, false));
        }
        self.searched = limit;
        if self.bytes.len() <= self.start + LINE_LIMIT {
            return None;
        }
        // Not within a character: one has at most three bytes beyond its first.
        let mut end = self.start + LINE_LIMIT;
        while end > self.start + LINE_LIMIT - 3 && self.bytes[end] & 0xc0 == 0x80 {
            end -= 1;
        }
        Some(self.take(end, end, true))
    }

    /// What is left when nothing more will come.
    fn last(&mut self) -> Option<Line> {
        let end = self.bytes.len();
        (end > self.start).then(|| self.take(end, end, false))
    }

    fn take(&mut self, end: usize, next: usize, continued: bool) -> Line {
        let line = &self.bytes[self.start..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = String::from_utf8_lossy(line).into_owned();
        let length = next - self.start;
        self.start = next;
        self.searched = self.searched.max(next);
        if self.start == self.bytes.len() {
            // The usual case: nothing has to be moved, and after a long line nothing is kept.
            self.bytes.clear();
            self.bytes.shrink_to(CHUNK);
            (self.start, self.searched) = (0, 0);
        }
        Line { text, continued, length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::PipeFlags;

    fn pair() -> (Output, OwnedFd) {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        (Output::new(Stream::Stdout, read), write)
    }

    fn read(output: &mut Output, now: Instant) -> (Vec<String>, Next) {
        let mut lines = Vec::new();
        let next = output.read(now, |line| lines.push(line.text));
        (lines, next)
    }

    #[test]
    fn lines_may_come_in_pieces() {
        let (mut output, write) = pair();
        let now = Instant::now();
        rustix::io::write(&write, b"one\r\ntwo\n\nthr").unwrap();
        assert_eq!(read(&mut output, now), (vec!["one".into(), "two".into(), "".into()], Next::Wait));
        rustix::io::write(&write, b"ee \xff\xfe\nfour").unwrap();
        assert_eq!(read(&mut output, now), (vec!["three \u{fffd}\u{fffd}".into()], Next::Wait));
        drop(write);
        assert_eq!(read(&mut output, now), (vec!["four".into()], Next::Close));
    }

    #[test]
    fn a_line_that_is_too_long_comes_in_whole_characters() {
        let (mut output, write) = pair();
        let text = "x".to_owned() + &"ä".repeat(20_000);
        rustix::io::write(&write, text.as_bytes()).unwrap();
        rustix::io::write(&write, b"\nnext\n").unwrap();
        let mut lines = Vec::new();
        assert_eq!(output.read(Instant::now(), |line| lines.push(line)), Next::Wait);
        let shape: Vec<(usize, bool)> = lines.iter().map(|line| (line.text.len(), line.continued)).collect();
        assert_eq!(shape, [(16_383, true), (16_384, true), (7_234, false), (4, false)]);
        assert_eq!(lines[..3].iter().map(|line| line.text.as_str()).collect::<String>(), text);

        let exact = "y".repeat(LINE_LIMIT);
        rustix::io::write(&write, exact.as_bytes()).unwrap();
        rustix::io::write(&write, b"\n").unwrap();
        assert_eq!(read(&mut output, Instant::now()).0, [exact]);
    }

    #[test]
    fn a_stream_gets_its_share_and_no_more() {
        let (mut output, write) = pair();
        let now = Instant::now();
        rustix::io::write(&write, &b"y\n".repeat(1500)).unwrap();
        let (lines, next) = read(&mut output, now);
        assert_eq!((lines.len(), next), (LINES, Next::Pause(now + WINDOW)));
        // Too early.
        assert_eq!(read(&mut output, now + WINDOW / 2), (vec![], Next::Pause(now + WINDOW)));
        let (lines, next) = read(&mut output, now + WINDOW);
        assert_eq!((lines.len(), next), (500, Next::Wait));
    }

    #[test]
    fn what_is_left_at_the_end_is_logged_or_counted() {
        let (mut output, write) = pair();
        rustix::io::write(&write, &b"y\n".repeat(30_000)).unwrap();
        let (early, _) = read(&mut output, Instant::now());
        let mut late = 0;
        let dropped = output.finish(|_| late += 1);
        assert_eq!((early.len(), late), (LINES, LAST_LINES));
        assert_eq!(dropped, Dropped { lines: 30_000 - LINES - LAST_LINES, bytes: 2 * (30_000 - LINES - LAST_LINES) });

        let (output, write) = pair();
        rustix::io::write(&write, b"no end").unwrap();
        let mut lines = Vec::new();
        assert_eq!(output.finish(|line| lines.push(line.text)), Dropped::default());
        assert_eq!(lines, ["no end"]);
    }
}
