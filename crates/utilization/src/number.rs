//! The types of metrics, and their values.

use std::{fmt, str::FromStr};

use crate::error::UnknownType;

/// The type of a metric.
///
/// Integers wrap around at their width, as atomic instructions do: one below zero of a [`U32`](Type::U32) is 4294967295.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Type {
    /// 32 bits without a sign.
    U32,
    /// 64 bits without a sign. The default of metrics whose type nobody set.
    #[default]
    U64,
    /// 32 bits with a sign.
    I32,
    /// 64 bits with a sign.
    I64,
    /// 32-bit floating point. No processor adds to it in one instruction: it is a loop around compare-and-swap, which takes two and
    /// a half times as long as to add to an integer, and is repeated when another thread was faster. What is counted often
    /// is better counted in a smaller unit, as an integer: microseconds rather than seconds. Beyond 2^24, which is
    /// 16,777,216, it does not grow by ones any more. To set it takes no longer than any other.
    F32,
    /// 64-bit floating point, added to as [`F32`](Type::F32) is, at the same cost. It grows by ones up to 2^53.
    F64,
}

impl Type {
    /// All of them.
    pub const ALL: [Type; 6] = [Type::U32, Type::U64, Type::I32, Type::I64, Type::F32, Type::F64];

    /// Its name: what [`FromStr`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// What a word of shared memory means, read as this type.
    pub(crate) fn decode(self, word: u64) -> Number {
        match self {
            Self::U32 => Number::Unsigned((word as u32).into()),
            Self::U64 => Number::Unsigned(word),
            Self::I32 => Number::Signed((word as i32).into()),
            Self::I64 => Number::Signed(word as i64),
            Self::F32 => Number::Float(f32::from_bits(word as u32).into()),
            Self::F64 => Number::Float(f64::from_bits(word)),
        }
    }

    /// The word of shared memory that means this number. Of 32-bit types the lower half counts, so that what is added to
    /// the word is added to the number.
    #[inline]
    pub(crate) fn encode(self, number: Number) -> u64 {
        match self {
            Self::U32 | Self::I32 => u64::from(number.to_bits() as u32),
            Self::U64 | Self::I64 => number.to_bits(),
            Self::F32 => u64::from((number.as_f64() as f32).to_bits()),
            Self::F64 => number.as_f64().to_bits(),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Also understands `s32` and `s64`, as some call the signed ones.
impl FromStr for Type {
    type Err = UnknownType;

    fn from_str(name: &str) -> Result<Self, UnknownType> {
        match name {
            "u32" => Ok(Self::U32),
            "u64" => Ok(Self::U64),
            "i32" | "s32" => Ok(Self::I32),
            "i64" | "s64" => Ok(Self::I64),
            "f32" => Ok(Self::F32),
            "f64" => Ok(Self::F64),
            other => Err(UnknownType(other.to_owned())),
        }
    }
}

/// A value of a metric, or a sum of such.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Of [`Type::U32`] and [`Type::U64`].
    Unsigned(u64),
    /// Of [`Type::I32`] and [`Type::I64`].
    Signed(i64),
    /// Of [`Type::F32`] and [`Type::F64`].
    Float(f64),
}

impl Number {
    /// As an unsigned integer; what is below zero is 0, what is too large the largest, what is after the point cut.
    pub fn as_u64(self) -> u64 {
        match self {
            Self::Unsigned(number) => number,
            Self::Signed(number) => u64::try_from(number).unwrap_or(0),
            Self::Float(number) => number as u64,
        }
    }

    /// As an integer with a sign; what is out of range is the nearest that is not, what is after the point cut.
    pub fn as_i64(self) -> i64 {
        match self {
            Self::Unsigned(number) => i64::try_from(number).unwrap_or(i64::MAX),
            Self::Signed(number) => number,
            Self::Float(number) => number as i64,
        }
    }

    /// As a floating-point number; integers beyond 2^53 lose their last digits.
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Unsigned(number) => number as f64,
            Self::Signed(number) => number as f64,
            Self::Float(number) => number,
        }
    }

    /// The sum of two, which need not be of one kind: with a floating-point number it is one, else an integer as long as
    /// it fits. It stops at the largest and the smallest number that there is.
    pub fn plus(self, other: Number) -> Number {
        match (self, other) {
            (Self::Unsigned(one), Self::Unsigned(two)) => Self::Unsigned(one.saturating_add(two)),
            (Self::Float(_), _) | (_, Self::Float(_)) => Self::Float(self.as_f64() + other.as_f64()),
            (one, two) => {
                let sum = one.as_i128() + two.as_i128();
                match (i64::try_from(sum), u64::try_from(sum)) {
                    (Ok(sum), _) => Self::Signed(sum),
                    (_, Ok(sum)) => Self::Unsigned(sum),
                    _ if sum < 0 => Self::Signed(i64::MIN),
                    _ => Self::Unsigned(u64::MAX),
                }
            }
        }
    }

    /// Holds the sum of any two integers.
    fn as_i128(self) -> i128 {
        match self {
            Self::Unsigned(number) => number.into(),
            Self::Signed(number) => number.into(),
            Self::Float(number) => number as i128,
        }
    }

    /// Two's complement, whatever the sign.
    #[inline]
    fn to_bits(self) -> u64 {
        match self {
            Self::Unsigned(number) => number,
            Self::Signed(number) => number as u64,
            Self::Float(number) if number < 0.0 => number as i64 as u64,
            Self::Float(number) => number as u64,
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(number) => number.fmt(formatter),
            Self::Signed(number) => number.fmt(formatter),
            Self::Float(number) => number.fmt(formatter),
        }
    }
}

macro_rules! from {
    ($variant:ident: $($type:ty),*) => {
        $(impl From<$type> for Number {
            #[inline]
            fn from(number: $type) -> Self {
                Self::$variant(number as _)
            }
        })*
    };
}

from!(Unsigned: u8, u16, u32, u64, usize);
from!(Signed: i8, i16, i32, i64, isize);
from!(Float: f32, f64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_other_spellings() {
        for kind in Type::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert_eq!("s32".parse(), Ok(Type::I32));
        assert_eq!("s64".parse(), Ok(Type::I64));
        assert!("U32".parse::<Type>().unwrap_err().to_string().contains("'U32' is no type"));
    }

    #[test]
    fn a_word_means_the_number_that_it_was_made_of() {
        let numbers = [Number::Signed(-7), Number::Unsigned(7), Number::Float(1.5)];
        let expected = [
            (Type::U32, [Number::Unsigned(4294967289), Number::Unsigned(7), Number::Unsigned(1)]),
            (Type::U64, [Number::Unsigned(u64::MAX - 6), Number::Unsigned(7), Number::Unsigned(1)]),
            (Type::I32, [Number::Signed(-7), Number::Signed(7), Number::Signed(1)]),
            (Type::I64, [Number::Signed(-7), Number::Signed(7), Number::Signed(1)]),
            (Type::F32, [Number::Float(-7.0), Number::Float(7.0), Number::Float(1.5)]),
            (Type::F64, [Number::Float(-7.0), Number::Float(7.0), Number::Float(1.5)]),
        ];
        for (kind, expected) in expected {
            assert_eq!(numbers.map(|number| kind.decode(kind.encode(number))), expected, "{kind}");
        }
        assert_eq!(Type::I32.decode(Type::I32.encode(Number::Float(-2.9))), Number::Signed(-2));
    }

    #[test]
    fn sums_keep_their_kind_where_they_can() {
        assert_eq!(Number::Unsigned(1).plus(2u32.into()), Number::Unsigned(3));
        assert_eq!(Number::Unsigned(1).plus((-2).into()), Number::Signed(-1));
        assert_eq!(Number::Unsigned(1).plus(0.5.into()), Number::Float(1.5));
        assert_eq!(Number::Unsigned(u64::MAX).plus(1u8.into()), Number::Unsigned(u64::MAX));
        assert_eq!(Number::Unsigned(u64::MAX).plus((-1).into()), Number::Unsigned(u64::MAX - 1));
        assert_eq!(Number::Signed(i64::MAX).plus(1.into()), Number::Unsigned(1 << 63));
        assert_eq!(Number::Signed(1).plus(u64::MAX.into()), Number::Unsigned(u64::MAX));
        assert_eq!(Number::Signed(i64::MIN).plus((-1).into()), Number::Signed(i64::MIN));
    }
}
