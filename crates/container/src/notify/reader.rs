//! The root's end of a child's notify pipe.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::Message;

/// The longest line that is read. A longer one is skipped, so that no child can make the root grow.
const LINE_LIMIT: usize = 64 * 1024;

/// Splits what a child writes into messages.
pub(crate) struct LineReader {
    pipe: OwnedFd,
    /// The beginning of a line that is not complete yet.
    partial: Vec<u8>,
    /// True while the rest of a line that is too long is being skipped.
    skipping: bool,
}

/// What one reading brought.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Lines {
    pub messages: Vec<Message>,
    /// The first line that is no message, and why.
    pub garbage: Option<(String, String)>,
    /// True if nobody can write any more.
    pub closed: bool,
}

impl LineReader {
    /// The pipe must not block.
    pub(crate) fn new(pipe: OwnedFd) -> Self {
        LineReader { pipe, partial: Vec::new(), skipping: false }
    }

    /// Reads all that is there.
    pub(crate) fn read(&mut self) -> Lines {
        let mut lines = Lines::default();
        let mut buffer = [0u8; 4096];
        // A child that writes without end must not keep the root from the others: after this many
        // bytes it has to wait for its next turn.
        for _ in 0..16 {
            match rustix::io::read(&self.pipe, &mut buffer) {
                Ok(0) => {
                    lines.closed = true;
                    break;
                }
                Ok(length) => {
                    self.feed(&buffer[..length], &mut lines);
                    if length < buffer.len() {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    lines.closed = true;
                    break;
                }
            }
        }
        lines
    }

    fn feed(&mut self, mut bytes: &[u8], lines: &mut Lines) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if self.partial.is_empty() {
                parse(line, lines);
            } else {
                self.partial.extend_from_slice(line);
                parse(&std::mem::take(&mut self.partial), lines);
            }
        }
        if self.skipping {
            return;
        }
        if self.partial.len() + bytes.len() > LINE_LIMIT {
            self.skipping = true;
            let start = excerpt(&self.partial);
            self.partial = Vec::new();
            lines.garbage.get_or_insert((start, format!("the line is longer than {LINE_LIMIT} bytes")));
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }
}

impl AsFd for LineReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

fn parse(line: &[u8], lines: &mut Lines) {
    let line = line.trim_ascii();
    if line.is_empty() {
        return;
    }
    // An array would be taken for the fields in their order.
    if !line.starts_with(b"{") {
        lines.garbage.get_or_insert((excerpt(line), "not a JSON object".to_owned()));
        return;
    }
    match serde_json::from_slice(line) {
        Ok(message) => lines.messages.push(message),
        Err(error) => {
            lines.garbage.get_or_insert((excerpt(line), error.to_string()));
        }
    }
}

/// The beginning of what a child wrote, fit for a log.
fn excerpt(bytes: &[u8]) -> String {
    let mut text: String = String::from_utf8_lossy(bytes).chars().take(80).collect();
    if text.len() < bytes.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::PipeFlags;

    fn pair() -> (LineReader, OwnedFd) {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        (LineReader::new(read), write)
    }

    #[test]
    fn messages_may_come_in_pieces() {
        let (mut reader, write) = pair();
        rustix::io::write(&write, b"{\"ready\":true}\n{\"sta").unwrap();
        let lines = reader.read();
        assert_eq!(lines.messages, [Message { ready: Some(true), ..Message::default() }]);
        rustix::io::write(&write, b"tus\":\"x\",\"more\":[1]}\n\n").unwrap();
        let lines = reader.read();
        assert_eq!(lines.messages, [Message { status: Some("x".into()), ..Message::default() }]);
        assert!(!lines.closed && lines.garbage.is_none());
        drop(write);
        assert!(reader.read().closed);
    }

    #[test]
    fn garbage_is_reported_and_the_rest_is_heard() {
        let (mut reader, write) = pair();
        rustix::io::write(&write, b"\xff\xfe nonsense\n[]\n{\"healthy\":true}\n").unwrap();
        let lines = reader.read();
        assert_eq!(lines.messages.len(), 1);
        assert!(lines.garbage.unwrap().0.contains("nonsense"));
    }

    #[test]
    fn a_line_without_end_is_skipped() {
        let (mut reader, write) = pair();
        let mut garbage = None;
        for _ in 0..40 {
            rustix::io::write(&write, &[b'x'; 4096]).unwrap();
            garbage = garbage.or(reader.read().garbage);
            assert!(reader.partial.capacity() <= 2 * LINE_LIMIT);
        }
        assert!(garbage.unwrap().1.contains("longer than"));
        rustix::io::write(&write, b"\n{\"ready\":true}\n").unwrap();
        let lines = reader.read();
        assert_eq!(lines.messages.len(), 1);
        assert_eq!(lines.garbage, None);
    }
}
