//! Reading what was written, with none of the code that writes it.

use std::io::Read;

/// What was read of a `pprof` file by its public description alone: with none of the code that writes it.
#[derive(Debug, Default)]
pub struct Decoded {
    pub strings: Vec<String>,
    /// Indices of the names of what is measured.
    pub measures: Vec<u64>,
    /// The locations of a stack, and its numbers.
    pub samples: Vec<(Vec<u64>, Vec<u64>)>,
    /// By id: functions, the innermost first.
    pub locations: Vec<(u64, Vec<u64>)>,
    /// Of each location, the id of its mapping, and its address.
    pub addresses: Vec<(u64, u64)>,
    pub mappings: Vec<Mapping>,
    /// By id: the index of the name.
    pub functions: Vec<(u64, u64)>,
}

/// Where a file is mapped, and which one it is: indices of its name and of its build id.
#[derive(Debug, Default)]
pub struct Mapping {
    pub id: u64,
    pub start: u64,
    pub limit: u64,
    pub offset: u64,
    pub file: u64,
    pub build_id: u64,
    pub has_functions: bool,
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Value<'_> {
    fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Bytes(_) => panic!("a number was expected"),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Number(_) => panic!("bytes were expected"),
            Self::Bytes(bytes) => bytes,
        }
    }
}

fn number(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    let mut shift = 0;

    loop {
        let (&byte, rest) = bytes.split_first().expect("a number ends");
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;

        if byte & 0x80 == 0 {
            return value;
        }
    }
}

fn fields(mut bytes: &[u8], mut field: impl FnMut(u64, Value<'_>)) {
    while !bytes.is_empty() {
        let key = number(&mut bytes);

        match key & 7 {
            0 => field(key >> 3, Value::Number(number(&mut bytes))),
            2 => {
                let length = number(&mut bytes) as usize;
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                field(key >> 3, Value::Bytes(value));
            }
            other => panic!("there is no wire type {other} in these files"),
        }
    }
}

/// A list of numbers, packed or not.
fn push(list: &mut Vec<u64>, value: &Value<'_>) {
    match *value {
        Value::Number(number) => list.push(number),
        Value::Bytes(mut bytes) => {
            while !bytes.is_empty() {
                list.push(number(&mut bytes));
            }
        }
    }
}

impl Decoded {
    pub fn of(compressed: &[u8]) -> Self {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(compressed).read_to_end(&mut plain).expect("it is compressed");
        let mut decoded = Self::default();
        fields(&plain, |name, value| match name {
            1 => fields(value.bytes(), |name, value| {
                if name == 1 {
                    decoded.measures.push(value.number());
                }
            }),
            2 => {
                let (mut locations, mut values) = (Vec::new(), Vec::new());
                fields(value.bytes(), |name, value| match name {
                    1 => push(&mut locations, &value),
                    2 => push(&mut values, &value),
                    _ => {}
                });
                decoded.samples.push((locations, values));
            }
            3 => {
                let mut mapping = Mapping::default();
                fields(value.bytes(), |name, value| match name {
                    1 => mapping.id = value.number(),
                    2 => mapping.start = value.number(),
                    3 => mapping.limit = value.number(),
                    4 => mapping.offset = value.number(),
                    5 => mapping.file = value.number(),
                    6 => mapping.build_id = value.number(),
                    7 => mapping.has_functions = value.number() != 0,
                    _ => {}
                });
                decoded.mappings.push(mapping);
            }
            4 => {
                let (mut id, mut mapping, mut address, mut functions) = (0, 0, 0, Vec::new());
                fields(value.bytes(), |name, value| match name {
                    1 => id = value.number(),
                    2 => mapping = value.number(),
                    3 => address = value.number(),
                    4 => fields(value.bytes(), |name, value| {
                        if name == 1 {
                            functions.push(value.number());
                        }
                    }),
                    _ => {}
                });
                decoded.locations.push((id, functions));
                decoded.addresses.push((mapping, address));
            }
            5 => {
                let (mut id, mut name_of) = (0, 0);
                fields(value.bytes(), |name, value| match name {
                    1 => id = value.number(),
                    2 => name_of = value.number(),
                    _ => {}
                });
                decoded.functions.push((id, name_of));
            }
            6 => decoded.strings.push(String::from_utf8(value.bytes().to_vec()).expect("names are text")),
            _ => {}
        });
        decoded
    }

    /// The sum of a number over all stacks in which a function with that in its name is.
    pub fn sum(&self, measure: &str, function: &str) -> u64 {
        let string = |index: u64| self.strings[index as usize].as_str();
        let measure = self.measures.iter().position(|&name| string(name) == measure).expect("it is measured");
        let is_in = |location: &u64| {
            let (_, functions) = self.locations.iter().find(|(id, _)| id == location).expect("it is there");
            functions.iter().any(|function_id| {
                let (_, name) = self.functions.iter().find(|(id, _)| id == function_id).expect("it is there");
                string(*name).contains(function)
            })
        };
        let samples = self.samples.iter().filter(|(locations, _)| locations.iter().any(is_in));
        samples.map(|(_, values)| values[measure]).sum()
    }
}
