//! Bytes that nobody has vouched for. A moment of it runs with the other tests; for more, set `FUZZ_EXECUTIONS` to a number
//! for each target, and `FUZZ_SEED` to begin elsewhere:
//!
//! ```text
//! FUZZ_EXECUTIONS=10000000 cargo test --release --package async-container-protocol --test fuzz
//! ```
//!
//! `fuzz/` has the same targets for cargo-fuzz, which finds its way by what of the code was reached. What it found worth
//! keeping lies in `fuzz/corpus` and is where this begins, too.

mod targets;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

/// As many as take about a second without optimisation.
const EXECUTIONS: u64 = 10_000;

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} has to be a number")))
}

/// A small generator of numbers: the same seed gives the same bytes everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }

    fn one_of<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// A value in MessagePack, nearly always one that is as it should be.
fn value(random: &mut Random, depth: usize, out: &mut Vec<u8>) {
    match random.below(if depth > 4 { 10 } else { 13 }) {
        0 => out.push(0xc0),
        1 => out.push(0xc2 + random.below(2) as u8),
        2 => out.push(random.below(256) as u8 & 0x7f),
        3 => out.push(0xe0 | random.below(32) as u8),
        4 => number_of(random, out),
        5 => text(random, out),
        6 => {
            let length = random.below(5);
            out.extend([0xc4, length as u8]);
            out.extend((0..length).map(|_| random.below(256) as u8));
        }
        7 => {
            let length = [1, 2, 4, 8, 16][random.below(5)];
            out.push(0xd4 + [1, 2, 4, 8, 16].iter().position(|known| *known == length).unwrap_or(0) as u8);
            out.extend((0..=length).map(|_| random.below(256) as u8));
        }
        8 | 9 => text(random, out),
        10 => {
            let length = random.below(4);
            out.push(0x90 | length as u8);
            (0..length).for_each(|_| value(random, depth + 1, out));
        }
        _ => {
            let length = random.below(4);
            out.push(0x80 | length as u8);

            for _ in 0..length {
                match random.below(8) {
                    0 => value(random, depth + 1, out),
                    _ => text(random, out),
                }

                value(random, depth + 1, out);
            }
        }
    }
}

fn number_of(random: &mut Random, out: &mut Vec<u8>) {
    let (marker, length) =
        [(0xca, 4), (0xcb, 8), (0xcc, 1), (0xcd, 2), (0xce, 4), (0xcf, 8), (0xd0, 1), (0xd1, 2), (0xd2, 4), (0xd3, 8)]
            [random.below(10)];
    out.push(marker);
    let extreme = random.below(4);
    out.extend((0..length).map(|_| match extreme {
        0 => 0xff,
        1 => 0,
        _ => random.below(256) as u8,
    }));
}

fn text(random: &mut Random, out: &mut Vec<u8>) {
    let words = [
        "", "a", "id", "do", "finished", "failed", "error", "cancel", "class", "message", "é\n\"\\", "state", "window",
        "call", "more",
    ];
    let word = random.one_of(&words.map(str::as_bytes)[..]);

    match random.below(4) {
        0 => out.extend([0xd9, word.len() as u8]),
        _ => out.push(0xa0 | word.len() as u8),
    }

    out.extend(word);
}

/// A message in MessagePack: what it says of itself, and other fields.
fn message(random: &mut Random) -> Vec<u8> {
    let mut entries: Vec<Vec<u8>> = Vec::new();
    let usual: [&[u8]; 11] = [
        b"\xa2do\xa1x",
        b"\xa8finished\xc3",
        b"\xa6failed\xc3",
        b"\xa6cancel\xc3",
        b"\xa5error\x82\xa5class\xa1C\xa7message\xa1m",
        b"\xa2id\x03",
        b"\xa2id\x05",
        b"\xa6failed\xc0",
        b"\xa6window\x02",
        b"\xa4call\x02",
        b"\xa4more\x03",
    ];
    entries.push([b"\xa2id", &[random.below(8) as u8][..]].concat());

    for _ in 0..random.below(4) {
        entries.push(random.one_of(&usual).to_vec());
    }

    for _ in 0..random.below(4) {
        let mut entry = Vec::new();
        text(random, &mut entry);
        value(random, 0, &mut entry);
        entries.push(entry);
    }

    let count = entries.len();
    entries.swap(0, random.below(count));
    [&[0x80 | count as u8][..], &entries.concat()].concat()
}

fn line(random: &mut Random) -> Vec<u8> {
    let parts = [
        "\"id\":2",
        "\"id\":3",
        "\"id\":-1",
        "\"id\":0",
        "\"window\":1",
        "\"call\":2,\"more\":1",
        "\"id\":18446744073709551615",
        "\"do\":\"x\"",
        "\"finished\":true",
        "\"failed\":true",
        "\"cancel\":true",
        "\"error\":{\"class\":\"C\",\"message\":\"m\"}",
        "\"a\":[1,2.5e3,{\"b\":null}]",
        "\"b\":\"\\u00e9\\ud83d\\ude00\\n\"",
        "\"c\":{\"id\":1,\"do\":7}",
        "\"d\":1e400",
        "\"e\":-0",
        "\"f\":[[[[]]]]",
    ];
    let parts: Vec<&str> = (0..random.below(5) + 1).map(|_| random.one_of(&parts)).collect();
    let end = random.one_of(&["\n", "\r\n", "\n\n", "", " \n"]);
    format!("{{{}}}{end}", parts.join(",")).into_bytes()
}

fn fresh(target: &str, random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![random.below(256) as u8];

    match target {
        "message" => return message(random),
        "json" => {
            (0..random.below(4)).for_each(|_| bytes.extend(line(random)));
            // The target begins the first of them.
            bytes.remove(1.min(bytes.len() - 1));
        }
        "frame" => {
            for _ in 0..random.below(6) {
                let message = message(random);
                bytes.extend((message.len() as u32).to_be_bytes());
                bytes.extend(message);
            }
        }
        _ => {
            let length = 20 + random.below(400);
            bytes = (0..length * 2).map(|_| random.below(256) as u8).collect();
        }
    }

    bytes
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len());

        match random.below(6) {
            _ if bytes.is_empty() => bytes.push(random.below(256) as u8),
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes.truncate(at + 1),
            3 => bytes.insert(at, random.below(256) as u8),
            4 => drop(bytes.remove(at)),
            _ => {
                let part = bytes[at..(at + 1 + random.below(16)).min(bytes.len())].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, part);
            }
        }
    }
}

/// What a fuzzer found worth keeping.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}

fn run(name: &str, target: fn(&[u8])) {
    let executions = number("FUZZ_EXECUTIONS").unwrap_or(EXECUTIONS);
    let mut random = Random(number("FUZZ_SEED").unwrap_or(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let corpus = corpus(name);
    corpus.iter().for_each(|bytes| target(bytes));

    for execution in 0..executions {
        let mut bytes = match random.below(4) {
            0 if !corpus.is_empty() => corpus[random.below(corpus.len())].clone(),
            _ => fresh(name, &mut random),
        };
        mutate(&mut bytes, &mut random);

        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&bytes))) {
            eprintln!("execution {execution} of {name}: b\"{}\"", bytes.escape_ascii());
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn frame() {
    run("frame", targets::frame);
}

#[test]
fn json() {
    run("json", targets::json);
}

#[test]
fn message_decoding() {
    run("message", targets::message);
}

#[test]
fn connection() {
    run("connection", targets::connection);
}
