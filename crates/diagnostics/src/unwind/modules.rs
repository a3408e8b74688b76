//! The files that are mapped in a process as code.

use std::{
    fmt, fs,
    ops::{Deref, Range},
    path::{Path, PathBuf},
    sync::Arc,
};

use framehop::ExplicitModuleSectionInfo;
use object::{Object, ObjectSection, ObjectSegment};

use super::UnwindError;
use crate::sys::{map::Mapped, memory};

/// Which file it is, whatever it is called by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    device: (u32, u32),
    inode: u64,
}

/// A part of a file that is mapped as code: what it takes to find the place in the file that an address stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Mapping {
    /// What the file is called in the list of mappings.
    pub file: Arc<str>,
    /// Where it is mapped.
    pub addresses: Range<u64>,
    /// What it begins with, in bytes from the beginning of the file.
    pub offset: u64,
    /// What tells this build of the file from all others, in hexadecimal digits, if it has something of the kind.
    pub build_id: Option<Arc<str>>,
}

/// The modules of one process, by their addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct Modules {
    modules: Vec<Arc<Module>>,
}

/// A file that is mapped in a process as code, or the piece of code that the kernel maps there (`[vdso]`).
pub struct Module {
    /// What it is called in the list of mappings.
    name: Arc<str>,
    /// Where to find the file.
    path: PathBuf,
    id: FileId,
    addresses: Range<u64>,
    /// The parts of it that are code.
    code: Vec<Arc<Mapping>>,
    /// The difference between an address in the process and the one that the file has for it.
    bias: u64,
    contents: Option<Contents>,
}

/// What was read of the file.
struct Contents {
    bytes: Arc<Mapped>,
    sections: Vec<(&'static str, Range<u64>, Range<usize>)>,
}

/// A part of a file, or nothing.
#[derive(Default)]
pub(super) struct Section {
    bytes: Option<Arc<Mapped>>,
    range: Range<usize>,
}

impl Deref for Section {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.as_ref().and_then(|bytes| bytes.get(self.range.clone())).unwrap_or_default()
    }
}

/// A line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq)]
struct Line<'a> {
    addresses: Range<u64>,
    executable: bool,
    shared: bool,
    offset: u64,
    id: FileId,
    name: &'a str,
}

impl Modules {
    pub(crate) fn of_this_process() -> Result<Self, UnwindError> {
        Self::read(std::process::id(), "/proc/self".as_ref())
    }

    pub(crate) fn of_process(process_id: u32) -> Result<Self, UnwindError> {
        Self::read(process_id, format!("/proc/{process_id}").as_ref())
    }

    fn read(process_id: u32, folder: &Path) -> Result<Self, UnwindError> {
        let maps = fs::read(folder.join("maps")).map_err(|source| UnwindError::Mappings { process_id, source })?;
        // Names may be any bytes. One that is none in UTF-8 only looks odd in the report.
        let maps = String::from_utf8_lossy(&maps);
        // What is shared is a file that somebody reads, such as the ones that are read here, and no module.
        let lines: Vec<Line<'_>> = maps.lines().filter_map(Line::parse).filter(|line| !line.shared).collect();
        let mut modules = Vec::new();

        // All mappings of a file follow each other, but for anonymous ones in between.
        for (at, first) in lines.iter().enumerate() {
            let is_module = first.id.inode != 0 || first.name == "[vdso]";
            let is_first = !lines[..at].iter().rev().take(16).any(|line| line.same_file(first));

            if !is_module || !is_first {
                continue;
            }

            let own: Vec<&Line<'_>> = lines[at..].iter().take(64).filter(|line| line.same_file(first)).collect();

            if own.iter().any(|line| line.executable) {
                modules.push(Arc::new(Module::open(process_id, folder, &own)));
            }
        }

        modules.sort_by_key(|module| module.addresses.start);
        Ok(Self { modules })
    }

    /// All of them, from the lowest address on.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Module>> {
        self.modules.iter()
    }

    /// The one in which an address lies.
    pub fn find(&self, address: u64) -> Option<&Arc<Module>> {
        let after = self.modules.partition_point(|module| module.addresses.start <= address);
        let module = self.modules.get(after.checked_sub(1)?)?;
        module.addresses.contains(&address).then_some(module)
    }
}

impl Module {
    fn open(process_id: u32, folder: &Path, lines: &[&Line<'_>]) -> Self {
        let addresses = lines[0].addresses.start..lines[lines.len() - 1].addresses.end;
        let (id, name) = (lines[0].id, Arc::<str>::from(lines[0].name));
        let (path, bytes) = open(process_id, folder, lines[0], &addresses);
        let parsed = bytes.map(Arc::new).and_then(|bytes| parse(bytes, lines));
        let (bias, build_id, contents) = match parsed {
            Some(Parsed { bias, build_id, contents }) => (bias, build_id, Some(contents)),
            None => (addresses.start.wrapping_sub(lines[0].offset), None, None),
        };
        let code = lines.iter().filter(|line| line.executable).map(|line| {
            let (addresses, offset) = (line.addresses.clone(), line.offset);
            Arc::new(Mapping { file: name.clone(), addresses, offset, build_id: build_id.clone() })
        });

        Self { code: code.collect(), name, path, id, addresses, bias, contents }
    }

    /// What it is called: its path, as a rule.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Where the file can be read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which file it is.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Where it is mapped.
    pub fn addresses(&self) -> Range<u64> {
        self.addresses.clone()
    }

    /// The part of the file in which an address of the process lies. Where there is no code, the first that is.
    pub fn mapping(&self, address: u64) -> Option<&Arc<Mapping>> {
        self.code.iter().find(|code| code.addresses.contains(&address)).or(self.code.first())
    }

    /// What the file calls an address of the process.
    pub fn to_file(&self, address: u64) -> u64 {
        address.wrapping_sub(self.bias)
    }

    /// Where in the process an address of the file is.
    pub(crate) fn to_process(&self, in_file: u64) -> u64 {
        in_file.wrapping_add(self.bias)
    }

    /// What tells this build of the file from all others.
    pub(crate) fn build_id(&self) -> Option<&Arc<str>> {
        self.code.first()?.build_id.as_ref()
    }

    pub(super) fn for_unwinding(&self) -> framehop::Module<Section> {
        let section = |name: &str| {
            let contents = self.contents.as_ref()?;
            let (_, addresses, range) = contents.sections.iter().find(|section| section.0 == name)?;
            Some((addresses.clone(), Section { bytes: Some(contents.bytes.clone()), range: range.clone() }))
        };
        let (eh_frame_svma, eh_frame) = section(".eh_frame").unzip();
        let (eh_frame_hdr_svma, eh_frame_hdr) = section(".eh_frame_hdr").unzip();
        let (text_svma, text) = section(".text").unzip();
        let (_, debug_frame) = section(".debug_frame").unzip();
        let (got_svma, _) = section(".got").unzip();
        let sections = ExplicitModuleSectionInfo {
            base_svma: 0,
            text_svma,
            text,
            got_svma,
            eh_frame_svma,
            eh_frame,
            eh_frame_hdr_svma,
            eh_frame_hdr,
            debug_frame,
            ..Default::default()
        };

        framehop::Module::new(self.name.to_string(), self.addresses.clone(), self.bias, sections)
    }
}

impl PartialEq for Module {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.addresses == other.addresses && self.bias == other.bias && self.name == other.name
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Module").field("name", &self.name).field("addresses", &self.addresses).finish()
    }
}

/// Opens what a mapping is made of: the file of that name, if it is still the same one; else the program itself, which can
/// be opened although it was replaced meanwhile.
fn open(process_id: u32, folder: &Path, line: &Line<'_>, addresses: &Range<u64>) -> (PathBuf, Option<Mapped>) {
    if line.id.inode == 0 {
        let bytes = memory::read(process_id, addresses.start, (addresses.end - addresses.start) as usize);
        return (PathBuf::from(line.name), bytes.map(Mapped::Copied));
    }

    let name = Path::new(line.name);
    let in_its_own_root = folder.join("root").join(name.strip_prefix("/").unwrap_or(name));

    for path in [name.to_owned(), folder.join("exe"), in_its_own_root] {
        let Ok(file) = fs::File::open(&path) else { continue };

        if line.id.is(&file)
            && let Ok(mapped) = Mapped::file(&file)
        {
            return (path, Some(mapped));
        }
    }

    (name.to_owned(), None)
}

/// What a file says of itself.
struct Parsed {
    bias: u64,
    build_id: Option<Arc<str>>,
    contents: Contents,
}

/// Finds the sections that say how to unwind, and where the file ended up.
fn parse(bytes: Arc<Mapped>, lines: &[&Line<'_>]) -> Option<Parsed> {
    const WANTED: [&str; 5] = [".eh_frame", ".eh_frame_hdr", ".text", ".debug_frame", ".got"];
    let file = object::File::parse(&bytes[..]).ok()?;
    let bias = bias(&file, lines)?;
    let build_id = file.build_id().ok().flatten().map(|id| hexadecimal(id).into());
    let sections = WANTED.into_iter().filter_map(|name| {
        let section = file.section_by_name(name)?;
        let whole = section.address()..section.address() + section.size();
        let (offset, size) = section.file_range().unwrap_or_default();
        let is_there = bytes.get(offset as usize..(offset + size) as usize).is_some();
        let is_plain =
            section.compressed_file_range().is_ok_and(|range| range.format == object::CompressionFormat::None);
        (is_there && is_plain).then(|| (name, whole, offset as usize..(offset + size) as usize))
    });
    let sections = sections.collect();
    Some(Parsed { bias, build_id, contents: Contents { bytes, sections } })
}

/// A build id, as tools write it.
pub(crate) fn hexadecimal(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The difference between where the file says that its code is, and where it is.
fn bias(file: &object::File<'_>, lines: &[&Line<'_>]) -> Option<u64> {
    let line = lines.iter().find(|line| line.executable)?;
    let page = memory::page_size();
    let segment = file.segments().find(|segment| {
        let (offset, size) = segment.file_range();
        let object::SegmentFlags::Elf { p_flags } = segment.flags() else { return false };
        // The mapping begins with the page in which the segment does, which may be the last one of another segment, too.
        p_flags & object::elf::PF_X != 0 && (offset - offset % page..offset + size).contains(&line.offset)
    })?;
    let (offset, _) = segment.file_range();
    Some(line.addresses.start.wrapping_sub(segment.address().wrapping_add(line.offset.wrapping_sub(offset))))
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        // Five columns, then spaces, then the name, which may have spaces in it.
        let mut rest = line;
        let mut column = || {
            let (column, after) = rest.split_once(' ')?;
            rest = after;
            Some(column)
        };
        let (start, end) = column()?.split_once('-')?;
        let permissions = column()?;
        let offset = column()?;
        let (major, minor) = column()?.split_once(':')?;
        let inode = column().unwrap_or(rest);
        let number = |text| u64::from_str_radix(text, 16).ok();
        let device = (number(major)? as u32, number(minor)? as u32);
        Some(Line {
            addresses: number(start)?..number(end)?,
            executable: permissions.contains('x'),
            shared: permissions.contains('s'),
            offset: number(offset)?,
            id: FileId { device, inode: inode.parse().ok()? },
            name: rest.trim_start(),
        })
    }

    fn same_file(&self, other: &Line<'_>) -> bool {
        self.id == other.id && self.name == other.name
    }
}

impl FileId {
    /// The device is not compared: on file systems with volumes of their own, the kernel names different ones in the
    /// list of mappings and in the file's attributes.
    fn is(&self, file: &fs::File) -> bool {
        use std::os::unix::fs::MetadataExt;
        file.metadata().is_ok_and(|metadata| metadata.ino() == self.inode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mappings_are_read() {
        let line = Line::parse("55e0-55f0 r-xp 00001000 fe:01 1234                       /opt/a b (deleted)").unwrap();
        assert_eq!(line.addresses, 0x55e0..0x55f0);
        assert!(line.executable);
        assert_eq!((line.offset, line.id.inode, line.id.device), (0x1000, 1234, (0xfe, 1)));
        assert_eq!(line.name, "/opt/a b (deleted)");
        assert_eq!(Line::parse("7f00-7f10 rw-p 00000000 00:00 0 ").unwrap().name, "");
        assert_eq!(Line::parse("nonsense"), None);
    }

    #[test]
    fn this_program_is_among_the_modules() {
        let modules = Modules::of_this_process().unwrap();
        let own = this_program_is_among_the_modules as fn() as usize as u64;
        let module = modules.find(own).unwrap();
        assert_eq!(Path::new(&**module.name()), std::env::current_exe().unwrap());
        assert!(modules.find(0).is_none());
        assert!(module.contents.as_ref().unwrap().sections.iter().any(|section| section.0 == ".eh_frame"));
    }

    #[test]
    fn files_that_are_read_are_no_part_of_a_module() {
        let before = Modules::of_this_process().unwrap();
        let mapped: Vec<Mapped> =
            before.iter().filter_map(|module| Mapped::file(&fs::File::open(module.path()).ok()?).ok()).collect();
        assert!(!mapped.is_empty());
        let after = Modules::of_this_process().unwrap();
        assert_eq!(before, after);
        let ends: Vec<_> = after.iter().map(|module| module.addresses()).collect();
        assert!(ends.windows(2).all(|pair| pair[0].end <= pair[1].start), "{ends:?}");
    }
}
