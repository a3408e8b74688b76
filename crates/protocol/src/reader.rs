//! Reading MessagePack where it lies: a cursor that borrows and never allocates.
//!
//! Everything that a peer sent goes through [`Reader::skip`] once, before anything else looks at it. What it lets
//! pass is complete, nested no deeper than [`MAXIMUM_DEPTH`], and holds no text that is not UTF-8: a worker with a
//! broken string in its state must not be able to break the tool of the person who looks at it.

use rmp::Marker;

use crate::error::MessageError;

/// How many maps and arrays may lie inside one another, the message itself counted. It is the limit that `serde_json`
/// has for a line, so that what one framing takes, the other takes too.
pub const MAXIMUM_DEPTH: usize = 128;

/// A cursor over MessagePack bytes.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    texts: Texts,
}

/// Why bytes cannot be read on. It is what a [`MessageError`] is made of, without what makes that too large for a register: this
/// is asked after every byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    Incomplete,
    NotUtf8,
    UnknownType,
    TooDeep,
}

impl From<Broken> for MessageError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Incomplete => Self::Incomplete,
            Broken::NotUtf8 => Self::NotUtf8,
            Broken::UnknownType => Self::UnknownType,
            Broken::TooDeep => Self::TooDeep { limit: MAXIMUM_DEPTH },
        }
    }
}

/// What is done about text that is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Texts {
    /// It is refused.
    Strict,
    /// It is passed over.
    Lenient,
    /// There is none: somebody has looked before.
    Checked,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self::starting_at(bytes, 0)
    }

    pub(crate) fn starting_at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, texts: Texts::Strict }
    }

    /// A reader of what one like this has passed over before.
    pub(crate) fn checked(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, texts: Texts::Checked }
    }

    /// A reader that passes over text which is not UTF-8, for a look into a message that is refused already.
    pub(crate) fn lenient(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, texts: Texts::Lenient }
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The bytes from `start` to where the cursor is.
    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    pub(crate) fn marker(&mut self) -> Result<Marker, Broken> {
        let byte = *self.bytes.get(self.at).ok_or(Broken::Incomplete)?;
        self.at += 1;
        Ok(Marker::from_u8(byte))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let bytes = self.bytes[self.at..].first_chunk::<N>().ok_or(Broken::Incomplete)?;
        self.at += N;
        Ok(*bytes)
    }

    fn size8(&mut self) -> Result<usize, Broken> {
        Ok(self.array::<1>()?[0] as usize)
    }

    fn size16(&mut self) -> Result<usize, Broken> {
        Ok(u16::from_be_bytes(self.array()?) as usize)
    }

    fn size32(&mut self) -> Result<usize, Broken> {
        Ok(u32::from_be_bytes(self.array()?) as usize)
    }

    #[inline(always)]
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Broken> {
        let end = self.at.checked_add(length).ok_or(Broken::Incomplete)?;
        let bytes = self.bytes.get(self.at..end).ok_or(Broken::Incomplete)?;
        self.at = end;
        Ok(bytes)
    }

    fn text(&mut self, length: usize) -> Result<&'a str, Broken> {
        match std::str::from_utf8(self.take(length)?) {
            Ok(text) => Ok(text),
            Err(_) if self.texts == Texts::Lenient => Ok(""),
            Err(_) => Err(Broken::NotUtf8),
        }
    }

    /// As [`text`](Self::text), for those who need no more than the bytes.
    #[inline(always)]
    fn text_bytes(&mut self, length: usize) -> Result<&'a [u8], Broken> {
        let bytes = self.take(length)?;
        self.check(bytes)
    }

    /// Looks at the bytes of a string.
    #[inline(always)]
    pub(crate) fn check(&self, bytes: &'a [u8]) -> Result<&'a [u8], Broken> {
        match self.texts {
            Texts::Checked => Ok(bytes),
            _ if is_ascii(bytes) || std::str::from_utf8(bytes).is_ok() => Ok(bytes),
            Texts::Lenient => Ok(&[]),
            Texts::Strict => Err(Broken::NotUtf8),
        }
    }

    /// Reads the header of a map: how many entries follow. `None` if it is something else.
    pub(crate) fn map(&mut self) -> Result<Option<u32>, Broken> {
        Ok(match self.marker()? {
            Marker::FixMap(entries) => Some(entries as u32),
            Marker::Map16 => Some(self.size16()? as u32),
            Marker::Map32 => Some(self.size32()? as u32),
            _ => None,
        })
    }

    /// Reads a string. `None` if it is something else.
    pub(crate) fn string(&mut self) -> Result<Option<&'a str>, Broken> {
        match self.string_length()? {
            Some(length) => self.text(length).map(Some),
            None => Ok(None),
        }
    }

    /// Reads a string for its bytes. `None` if it is something else.
    #[inline(always)]
    pub(crate) fn string_bytes(&mut self) -> Result<Option<&'a [u8]>, Broken> {
        match self.unchecked_bytes()? {
            Some(bytes) => self.check(bytes).map(Some),
            None => Ok(None),
        }
    }

    /// As [`string_bytes`](Self::string_bytes), for those who [`check`](Self::check) them if they have to.
    #[inline(always)]
    pub(crate) fn unchecked_bytes(&mut self) -> Result<Option<&'a [u8]>, Broken> {
        // Nearly all are short, and have their length in their first byte.
        if let Some(byte @ 0xa0..=0xbf) = self.bytes.get(self.at) {
            self.at += 1;
            return self.take(usize::from(byte & 0x1f)).map(Some);
        }

        match self.string_length()? {
            Some(length) => self.take(length).map(Some),
            None => Ok(None),
        }
    }

    #[inline]
    fn string_length(&mut self) -> Result<Option<usize>, Broken> {
        Ok(match self.marker()? {
            Marker::FixStr(length) => Some(length as usize),
            Marker::Str8 => Some(self.size8()?),
            Marker::Str16 => Some(self.size16()?),
            Marker::Str32 => Some(self.size32()?),
            _ => None,
        })
    }

    /// Reads an integer of any width. `None` if it is something else.
    #[inline]
    pub(crate) fn integer(&mut self) -> Result<Option<i128>, Broken> {
        Ok(Some(match self.marker()? {
            Marker::FixPos(value) => value.into(),
            Marker::FixNeg(value) => value.into(),
            Marker::U8 => u8::from_be_bytes(self.array()?).into(),
            Marker::U16 => u16::from_be_bytes(self.array()?).into(),
            Marker::U32 => u32::from_be_bytes(self.array()?).into(),
            Marker::U64 => u64::from_be_bytes(self.array()?).into(),
            Marker::I8 => i8::from_be_bytes(self.array()?).into(),
            Marker::I16 => i16::from_be_bytes(self.array()?).into(),
            Marker::I32 => i32::from_be_bytes(self.array()?).into(),
            Marker::I64 => i64::from_be_bytes(self.array()?).into(),
            _ => return Ok(None),
        }))
    }

    /// Reads the header of one value with what belongs to it, short of its children.
    pub(crate) fn token(&mut self) -> Result<Token<'a>, Broken> {
        Ok(match self.marker()? {
            Marker::Null => Token::Nil,
            Marker::True => Token::Boolean(true),
            Marker::False => Token::Boolean(false),
            Marker::FixPos(value) => Token::Unsigned(value.into()),
            Marker::U8 => Token::Unsigned(u8::from_be_bytes(self.array()?).into()),
            Marker::U16 => Token::Unsigned(u16::from_be_bytes(self.array()?).into()),
            Marker::U32 => Token::Unsigned(u32::from_be_bytes(self.array()?).into()),
            Marker::U64 => Token::Unsigned(u64::from_be_bytes(self.array()?)),
            Marker::FixNeg(value) => Token::Signed(value.into()),
            Marker::I8 => Token::Signed(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => Token::Signed(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => Token::Signed(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => Token::Signed(i64::from_be_bytes(self.array()?)),
            Marker::F32 => Token::Float(f32::from_be_bytes(self.array()?).into()),
            Marker::F64 => Token::Float(f64::from_be_bytes(self.array()?)),
            Marker::FixStr(length) => Token::Text(self.text(length as usize)?),
            Marker::Str8 => {
                let length = self.size8()?;
                Token::Text(self.text(length)?)
            }
            Marker::Str16 => {
                let length = self.size16()?;
                Token::Text(self.text(length)?)
            }
            Marker::Str32 => {
                let length = self.size32()?;
                Token::Text(self.text(length)?)
            }
            Marker::Bin8 => {
                let length = self.size8()?;
                Token::Binary(self.take(length)?)
            }
            Marker::Bin16 => {
                let length = self.size16()?;
                Token::Binary(self.take(length)?)
            }
            Marker::Bin32 => {
                let length = self.size32()?;
                Token::Binary(self.take(length)?)
            }
            Marker::FixExt1 => self.extension(1)?,
            Marker::FixExt2 => self.extension(2)?,
            Marker::FixExt4 => self.extension(4)?,
            Marker::FixExt8 => self.extension(8)?,
            Marker::FixExt16 => self.extension(16)?,
            Marker::Ext8 => {
                let length = self.size8()?;
                self.extension(length)?
            }
            Marker::Ext16 => {
                let length = self.size16()?;
                self.extension(length)?
            }
            Marker::Ext32 => {
                let length = self.size32()?;
                self.extension(length)?
            }
            Marker::FixArray(length) => Token::Array(length.into()),
            Marker::Array16 => Token::Array(self.size16()? as u32),
            Marker::Array32 => Token::Array(self.size32()? as u32),
            Marker::FixMap(length) => Token::Map(length.into()),
            Marker::Map16 => Token::Map(self.size16()? as u32),
            Marker::Map32 => Token::Map(self.size32()? as u32),
            Marker::Reserved => return Err(Broken::UnknownType),
        })
    }

    fn extension(&mut self, length: usize) -> Result<Token<'a>, Broken> {
        let kind = i8::from_be_bytes(self.array()?);
        Ok(Token::Extension(kind, self.take(length)?))
    }

    /// Passes over one whole value, `depth` maps and arrays deep already.
    #[inline]
    pub(crate) fn skip(&mut self, depth: usize) -> Result<(), Broken> {
        match self.bytes.get(self.at) {
            Some(byte @ 0xa0..=0xbf) => {
                self.at += 1;
                return self.text_bytes(usize::from(byte & 0x1f)).map(|_| ());
            }
            // Text of up to 255 bytes.
            Some(0xd9) => {
                self.at += 1;
                let length = self.size8()?;
                return self.text_bytes(length).map(|_| ());
            }
            _ => {}
        }

        match self.children()? {
            0 => Ok(()),
            children => self.skip_nested(children, depth),
        }
    }

    /// Reads one value short of its children, and says how many those are.
    fn children(&mut self) -> Result<usize, Broken> {
        let start = self.at;
        let children = match self.marker()? {
            // What most values are.
            Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::True | Marker::False => return Ok(0),
            Marker::FixStr(length) => return self.text_bytes(length as usize).map(|_| 0),
            Marker::Str8 => {
                let length = self.size8()?;
                return self.text_bytes(length).map(|_| 0);
            }
            Marker::FixArray(length) => length as usize,
            Marker::FixMap(length) => length as usize * 2,
            _ => {
                self.at = start;

                match self.token()? {
                    Token::Array(length) => length as usize,
                    Token::Map(length) => length as usize * 2,
                    _ => return Ok(0),
                }
            }
        };

        if children == 0 {
            return Ok(0);
        }

        // A child takes a byte at least. A count that cannot be true is refused here, before anyone believes it.
        if children > self.bytes.len() - self.at {
            return Err(Broken::Incomplete);
        }

        Ok(children)
    }

    /// A stack of its own in place of recursion: a peer decides how deep it goes, not the size of a thread's stack.
    #[inline(never)]
    fn skip_nested(&mut self, children: usize, depth: usize) -> Result<(), Broken> {
        let limit = MAXIMUM_DEPTH.saturating_sub(depth);

        if limit == 0 {
            return Err(Broken::TooDeep);
        }

        let mut remaining = [0usize; MAXIMUM_DEPTH];
        let mut level = 0;
        remaining[0] = children;

        loop {
            if remaining[level] == 0 {
                if level == 0 {
                    return Ok(());
                }

                level -= 1;
                continue;
            }

            remaining[level] -= 1;
            let children = self.children()?;

            if children > 0 {
                level += 1;

                if level >= limit {
                    return Err(Broken::TooDeep);
                }

                remaining[level] = children;
            }
        }
    }
}

/// Whether text is ASCII: nearly all of a message is, and is short, and to find that out is much of what it costs to look at it.
#[inline(always)]
fn is_ascii(bytes: &[u8]) -> bool {
    const LONG: usize = 128;
    const UPPER: u64 = 0x8080_8080_8080_8080;

    match bytes.last_chunk::<8>() {
        Some(last) if bytes.len() < LONG => {
            let (chunks, _) = bytes.as_chunks::<8>();
            let all = chunks.iter().fold(u64::from_ne_bytes(*last), |all, chunk| all | u64::from_ne_bytes(*chunk));
            all & UPPER == 0
        }
        Some(_) => bytes.is_ascii(),
        None => bytes.iter().fold(0, |all, byte| all | byte) < 0x80,
    }
}

/// One value short of its children.
pub(crate) enum Token<'a> {
    Nil,
    Boolean(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a str),
    Binary(&'a [u8]),
    Extension(i8, &'a [u8]),
    Array(u32),
    Map(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_is_told_from_all_else_wherever_that_is() {
        for length in 0..150 {
            let mut bytes = vec![0x7f; length];
            assert!(is_ascii(&bytes));

            for at in 0..length {
                bytes[at] = 0x80;
                assert!(!is_ascii(&bytes), "{at} of {length}");
                bytes[at] = 0;
            }
        }
    }
}
