//! Reading the metrics of another process.

use rustix::fs::{FileType, Mode, OFlags};

use crate::{
    error::ViewError,
    layout,
    number::Number,
    schema::Field,
    segment::Reader,
    sys::{self, Mapping as _, ViewFailure},
};

/// The metrics of another process, as they are at any moment.
///
/// It holds no descriptor, and needs nothing of the other process: while that hangs, and after it has ended in whatever way,
/// the values that it wrote last are there. Whatever the other process does to its memory or to the file behind it, reading
/// does no more than give other numbers.
#[derive(Debug)]
pub struct View {
    process_id: u32,
    descriptor: i32,
    reader: Reader<sys::View>,
}

/// Which segment it is: the same one for all who opened it, through whichever process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity(u64, u64);

impl View {
    /// Opens what [`Registry::share`](crate::Registry::share) of that process gave. It takes the right to look into the
    /// process: the same user, or root.
    ///
    /// Neither the process nor the descriptor need be trusted. What is no file is not even opened, and what is no sealed file
    /// in memory is not mapped.
    pub fn open(process_id: u32, descriptor: i32) -> Result<Self, ViewError> {
        let reader = Reader::new(open(process_id, descriptor)?)?;
        let mut view = Self { process_id, descriptor, reader };
        view.refresh();
        Ok(view)
    }

    /// Looks for metrics that were made since, and says whether there are any. It costs one load if there are none.
    pub fn refresh(&mut self) -> bool {
        // If it can no longer be opened, because its process has ended, what is mapped is what can be known of it.
        self.reader.refresh(|| open(self.process_id, self.descriptor).ok())
    }

    /// The metrics, and what their values are now.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (&Field, Number)> {
        self.reader.fields().iter().map(|field| (field, self.reader.value(field)))
    }

    /// The values, in the order of the fields.
    pub fn values(&self) -> impl ExactSizeIterator<Item = Number> {
        self.reader.fields().iter().map(|field| self.reader.value(field))
    }

    /// Which segment it is. Two processes have the same one if one is a fork of the other.
    pub fn identity(&self) -> Identity {
        let (device, inode) = self.reader.memory().identity();
        Identity(device, inode)
    }
}

fn open(process_id: u32, descriptor: i32) -> Result<sys::View, ViewError> {
    let failed = |error: rustix::io::Errno| ViewError::Open { process_id, descriptor, source: error.into() };
    let path = format!("/proc/{process_id}/fd/{descriptor}");

    // To open a pipe may block, and to open a device may do anything, so it is looked at first, without being opened.
    let place = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let status = rustix::fs::fstat(&place).map_err(failed)?;

    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(ViewError::NotASegment("it is no file"));
    }

    // The very same file, whatever the process has at that descriptor by now.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&place));
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::empty()).map_err(failed)?;

    sys::View::new(&file, layout::SIZE_LIMIT).map_err(|failure| match failure {
        ViewFailure::NotSealed => ViewError::NotSealed,
        ViewFailure::Map(error) => ViewError::Map(error),
    })
}
