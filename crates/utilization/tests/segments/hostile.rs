//! What a process may put where its metrics should be, and what others may do to them.

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{FileExt, MetadataExt},
    },
};

use async_container_utilization::{Number, Registry, View, ViewError};
use rustix::fs::{MemfdFlags, SealFlags};

fn memory(contents: &[u8]) -> File {
    let file: OwnedFd = rustix::fs::memfd_create("hostile", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = File::from(file);
    file.write_all(contents).unwrap();
    file
}

fn sealed(contents: &[u8]) -> File {
    let file = memory(contents);
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    file
}

fn open(file: &impl AsRawFd) -> Result<View, ViewError> {
    View::open(std::process::id(), file.as_raw_fd())
}

/// The bytes of a segment with one metric of each type.
fn genuine() -> Vec<u8> {
    let registry = Registry::new();
    registry.metric("requests_total").set(7u8);
    registry.metric("connections_total").set(8u8);
    let mut bytes = Vec::new();
    let path = format!("/proc/self/fd/{}", registry.share().unwrap().descriptor());
    File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_file_can_neither_be_cut_nor_written_by_others() {
    let registry = Registry::new();
    let metric = registry.metric("requests_total");
    let descriptor = registry.share().unwrap().descriptor();
    let path = format!("/proc/self/fd/{descriptor}");
    let file = File::options().read(true).write(true).open(path).unwrap();
    assert_eq!(file.set_len(0).unwrap_err().raw_os_error(), Some(libc_eperm()));
    assert_eq!(file.write_at(b"nonsense", 0).unwrap_err().raw_os_error(), Some(libc_eperm()));
    let punch = rustix::fs::fallocate(
        &file,
        rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
        0,
        4096,
    );
    assert_eq!(punch, Err(rustix::io::Errno::PERM));
    metric.increment();
    assert_eq!(open(&file).unwrap().values().next(), Some(Number::Unsigned(1)));
}

fn libc_eperm() -> i32 {
    rustix::io::Errno::PERM.raw_os_error()
}

#[test]
fn what_could_be_cut_is_not_mapped() {
    assert!(matches!(open(&memory(&genuine())), Err(ViewError::NotSealed)));

    let directory = std::env::temp_dir();
    let file = File::open(std::env::current_exe().unwrap()).unwrap();
    assert!(matches!(open(&file), Err(ViewError::NotSealed)));
    assert!(matches!(open(&File::open(directory).unwrap()), Err(ViewError::NotASegment(_))));
}

/// Such a page may be missing when it is touched first, though the file is long enough.
#[test]
fn huge_pages_are_not_mapped() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    match rustix::fs::memfd_create("hostile", flags) {
        Ok(file) => {
            let file = File::from(file);
            file.set_len(file.metadata().unwrap().blksize()).unwrap();
            rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
            assert!(matches!(open(&file), Err(ViewError::NotSealed)));
        }
        Err(error) => println!("not tested: this kernel has no huge pages: {error}"),
    }
}

#[test]
fn nothing_is_opened_that_is_no_file() {
    // To open either for reading would wait for somebody who writes.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(writer);
    assert!(matches!(open(&reader), Err(ViewError::NotASegment(_))));
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(matches!(open(&socket), Err(ViewError::NotASegment(_))));
    assert!(matches!(open(&File::open("/dev/null").unwrap()), Err(ViewError::NotASegment(_))));
    for descriptor in [-1, 1_000_000, i32::MAX, i32::MIN] {
        assert!(matches!(View::open(std::process::id(), descriptor), Err(ViewError::Open { .. })));
    }
}

#[test]
fn files_of_all_lengths_are_read_as_far_as_they_go() {
    let genuine = genuine();
    for length in [0, 1, 7, 8, 31, 32, 63, 64, 65, 319, 320, 321, 575, 576, 4095, 4096] {
        match open(&sealed(&genuine[..length])) {
            Ok(view) => assert_eq!(view.fields().len(), (length.saturating_sub(64) / 256).min(2), "{length}"),
            Err(ViewError::NotASegment(_)) => assert!(length < 32, "{length}"),
            Err(error) => panic!("{length}: {error}"),
        }
    }
}

#[test]
fn a_count_that_is_a_lie_is_not_believed() {
    let mut bytes = genuine();
    for count in [3u64, 15, 16, 4096, u64::from(u32::MAX), u64::MAX] {
        bytes[24..32].copy_from_slice(&count.to_ne_bytes());
        let mut view = open(&sealed(&bytes)).unwrap();
        view.refresh();
        assert_eq!(view.values().map(Number::as_u64).collect::<Vec<_>>(), [7, 8], "{count}");
    }
}

#[test]
fn records_that_make_no_sense_are_passed_over() {
    let genuine = genuine();
    let with = |offset: usize, value: &[u8]| {
        let mut bytes = genuine.clone();
        bytes[offset..offset + value.len()].copy_from_slice(value);
        let view = open(&sealed(&bytes)).unwrap();
        view.fields().map(|(field, _)| field.name().to_owned()).collect::<Vec<_>>()
    };
    // The first record begins at 64, and its description at 128.
    assert_eq!(with(128, &[0]), ["connections_total"], "a type that does not exist");
    assert_eq!(with(129, &[0]), ["connections_total"], "no name");
    assert_eq!(with(129, &[255]), ["connections_total"], "a name that reaches into the next record");
    assert_eq!(with(136, b"a\"} 1\nb"), ["connections_total"], "a name that would break out of a report");
    assert_eq!(with(136, &[0xff, 0xfe]), ["connections_total"], "no text at all");
}

/// One bit after the other is wrong. What is read is nothing, or the same metrics, or others that could be.
#[test]
fn no_bit_does_harm() {
    let genuine = genuine();
    // The header, and two records.
    for bit in 0..(64 + 2 * 256) * 8 {
        let mut bytes = genuine.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(mut view) = open(&sealed(&bytes)) else {
            assert!(bit / 8 < 24, "bit {bit}: only what says what it is can be a reason to read none of it");
            continue;
        };
        view.refresh();
        let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        assert!(view.fields().all(|(field, _)| is_name(field.name())), "bit {bit}");
        let others = view.values().filter(|value| ![7u32.into(), 8u32.into()].contains(value)).count();
        assert!(others <= 1 && view.fields().len() <= 2, "bit {bit}: {:?}", view.fields().collect::<Vec<_>>());
    }
}

#[test]
fn other_versions_are_told_from_other_files() {
    let mut bytes = genuine();
    bytes[8..12].copy_from_slice(&2u32.to_ne_bytes());
    assert!(matches!(open(&sealed(&bytes)), Err(ViewError::Version(2))));
    let mut bytes = genuine();
    bytes[0] ^= 1;
    assert!(matches!(open(&sealed(&bytes)), Err(ViewError::NotASegment(_))));
}

/// The owner may do what it likes: while it is being read, the file grows, and everything in it changes.
#[test]
fn a_reader_survives_an_owner_that_goes_mad() {
    let genuine = genuine();
    let file = sealed(&genuine);
    let mut view = open(&file).unwrap();
    let mut random = 88172645463325252u64;
    for round in 0..2_000u64 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let offset = if round % 3 == 0 { 24 } else { random % 5_000 };
        file.write_at(&random.to_ne_bytes(), offset).unwrap();
        if round == 1_000 {
            file.set_len(1 << 30).unwrap();
        }
        view.refresh();
        assert!(view.values().count() <= 4095);
    }
}

#[test]
fn the_walk_through_the_document_is_right() {
    // What docs/utilization.md tells a reader in another language to do, done without this crate's reader.
    let bytes = genuine();
    let word = |offset: usize| u64::from_ne_bytes(bytes[offset..offset + 8].try_into().unwrap());
    let half = |offset: usize| u32::from_ne_bytes(bytes[offset..offset + 4].try_into().unwrap()) as usize;
    assert_eq!(&bytes[..8], b"acs-util");
    assert_eq!((half(8), half(12), half(16), half(20)), (1, 64, 256, 64));
    let metrics: Vec<_> = (0..word(24) as usize)
        .map(|index| {
            let record = half(12) + index * half(16);
            let description = record + half(20);
            let (kind, length) = (bytes[description], bytes[description + 1] as usize);
            let name = &bytes[description + 8..description + 8 + length];
            (kind, std::str::from_utf8(name).unwrap(), word(record))
        })
        .collect();
    assert_eq!(metrics, [(2, "requests_total", 7), (2, "connections_total", 8)]);
}
