//! Giving back what a process has read of its program, when it has next to nothing to do from then on.

use std::ffi::{c_int, c_void};

/// `DT_TEXTREL` of elf.h: the loader has written to what is read-only now.
const WRITTEN_BY_LOADER: usize = 22;

/// Has this process give up the pages of code and constants that it has read. Those that it still needs are read again,
/// mostly from the page cache, when it needs them.
pub(crate) fn forget_program() {
    // SAFETY: the callback keeps to what dl_iterate_phdr(3) asks of it, and needs no data.
    unsafe {
        libc::dl_iterate_phdr(Some(forget_object), std::ptr::null_mut());
    }
}

/// For one object: the program, or a library.
unsafe extern "C" fn forget_object(object: *mut libc::dl_phdr_info, _size: usize, _data: *mut c_void) -> c_int {
    // SAFETY: the caller gives an object that is loaded, with so many headers.
    let (base, headers) = unsafe {
        let object = &*object;
        let headers = std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum));
        (object.dlpi_addr as usize, headers)
    };
    let at = |address| base + address as usize;
    for dynamic in headers.iter().filter(|header| header.p_type == libc::PT_DYNAMIC) {
        // SAFETY: it is loaded, and consists of pairs of numbers as wide as an address.
        let numbers = unsafe {
            std::slice::from_raw_parts(
                at(dynamic.p_vaddr) as *const usize,
                dynamic.p_memsz as usize / size_of::<usize>(),
            )
        };
        if numbers.iter().step_by(2).any(|tag| *tag == WRITTEN_BY_LOADER) {
            return 0;
        }
    }
    for loaded in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        let begin = at(loaded.p_vaddr);
        let page = begin & !(rustix::param::page_size() - 1);
        // SAFETY: nobody has written to these pages, so they are as they are in the file, and are read from there again. An
        // error, as for the kernel's own object, which is in no file, changes nothing.
        unsafe {
            libc::madvise(page as *mut c_void, begin - page + loaded.p_memsz as usize, libc::MADV_DONTNEED);
        }
    }
    0
}
