//! The memory of this process that can be read.

use std::{fs, io};

use super::capture::StackRange;

/// What is mapped and readable and may be a stack, by address. Neighbours are one, as they are for who reads.
pub(crate) fn read() -> io::Result<Vec<StackRange>> {
    let maps = fs::read("/proc/self/maps")?;
    Ok(maps.split(|&byte| byte == b'\n').filter_map(parse).collect())
}

fn parse(line: &[u8]) -> Option<StackRange> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
    let mut columns = line.split(|&byte| byte == b' ');
    let mut ends = columns.next()?.split(|&byte| byte == b'-');
    let (start, end) = (text(ends.next()?)?, text(ends.next()?)?);
    let is_writable = columns.next()?.starts_with(b"rw");
    is_writable.then(|| StackRange { addresses: start..end, is_first: line.ends_with(b" [stack]") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_among_them() {
        let local = 0_u8;
        let here = &raw const local as u64;
        let ranges = read().unwrap();
        assert!(ranges.iter().any(|range| range.addresses.contains(&here)));
        assert_eq!(ranges.iter().filter(|range| range.is_first).count(), 1);
        assert!(ranges.is_sorted_by_key(|range| range.addresses.start));
    }
}
