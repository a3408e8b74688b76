//! Where one message ends and the next begins.

use bytes::{Buf, BytesMut};

use crate::error::FrameError;

/// The length that goes before a MessagePack payload.
pub(crate) const HEADER: usize = 4;

/// No frame limit may be so large that a length within it could begin with `{`, which is how a peer asks for JSON.
pub(crate) const MAXIMUM_LIMIT: usize = ((b'{' as usize) << 24) - 1;

/// How messages are delimited and encoded on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A length of four bytes, big-endian, then a MessagePack map.
    MessagePack,
    /// One JSON object a line.
    JsonLines,
}

impl Framing {
    /// What a peer speaks whose first byte is this.
    pub fn of(first: u8) -> Self {
        match first {
            b'{' => Self::JsonLines,
            _ => Self::MessagePack,
        }
    }
}

/// Takes one payload off the input, if it is there as a whole. The length is compared with the limit before anything is
/// made of it.
pub(crate) fn take_frame(input: &mut BytesMut, limit: usize) -> Result<Option<BytesMut>, FrameError> {
    let Some(header) = input.first_chunk::<HEADER>() else {
        return Ok(None);
    };

    let length = u32::from_be_bytes(*header) as usize;

    if length == 0 {
        return Err(FrameError::Empty);
    }

    if length > limit {
        return Err(FrameError::TooLarge { length, limit });
    }

    if input.len() < HEADER + length {
        return Ok(None);
    }

    input.advance(HEADER);
    Ok(Some(input.split_to(length)))
}

/// Takes one line off the input, if it is there as a whole. `searched` bytes are known to hold no end of a line: it is
/// kept between calls, because a line that comes in small pieces would otherwise be searched again for each.
pub(crate) fn take_line(
    input: &mut BytesMut,
    searched: &mut usize,
    limit: usize,
) -> Result<Option<BytesMut>, FrameError> {
    let rest = input.get(*searched..).unwrap_or_default();

    match rest.iter().position(|byte| *byte == b'\n') {
        Some(position) if *searched + position <= limit => {
            let mut line = input.split_to(*searched + position + 1);
            line.truncate(line.len() - 1);
            *searched = 0;
            Ok(Some(line))
        }
        None if input.len() <= limit => {
            *searched = input.len();
            Ok(None)
        }
        _ => Err(FrameError::LineTooLong { limit }),
    }
}
