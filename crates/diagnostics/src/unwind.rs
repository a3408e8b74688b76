//! From registers and the memory of a stack to the code addresses of its frames.
//!
//! An [`Unwinder`] knows the modules of one process: the program and the libraries that are mapped in it. It is not changed
//! once it was made, so it can be shared, and walks any stack of that process: one that was copied, one that is read from
//! another process, or the one that it is called on. It uses the tables that compilers leave for panics (`.eh_frame`), and
//! follows frame pointers where there are none, as in code that was generated at run time.
//!
//! ```
//! use async_container_diagnostics::unwind::{Cache, Unwinder};
//!
//! let unwinder = Unwinder::of_this_process()?;
//! let mut addresses = [0; 64];
//! let depth = unwinder.walk_here(&mut Cache::new(), &mut addresses);
//! assert!(depth > 3);
//! # Ok::<(), async_container_diagnostics::unwind::UnwindError>(())
//! ```

mod modules;

use std::{
    io,
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
};

use framehop::{FrameAddress, MustNotAllocateDuringUnwind, Unwinder as _};

use crate::sys;

pub use crate::sys::registers::Registers;
pub(crate) use modules::hexadecimal;
pub use modules::{FileId, Mapping, Module, Modules};

type Native = framehop::UnwinderNative<modules::Section, MustNotAllocateDuringUnwind>;

/// A stack with more frames than that is cut off: nobody reads on, and one that runs in circles has to end somewhere.
pub const FRAME_LIMIT: usize = 512;

/// Why no stack of a process can be walked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnwindError {
    /// The list of what is mapped in the process could not be read: it has ended, or belongs to another user.
    #[error("could not read what is mapped in process {process_id}")]
    Mappings {
        /// The process.
        process_id: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Rules that were found for addresses, so that they need not be searched for again. It belongs to whoever walks, because
/// walking changes it, and can be used with one unwinder after another.
///
/// It takes about 50 KiB, all of which are allocated at once.
pub struct Cache(framehop::CacheNative<MustNotAllocateDuringUnwind>);

impl Cache {
    /// An empty one.
    pub fn new() -> Self {
        Self(framehop::CacheNative::new_in())
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Cache").finish_non_exhaustive()
    }
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// At the function that the thread began with, or where the caller of the walk wanted no more.
    Complete,
    /// Somewhere before: part of the stack was not there, or nothing says how to go on from that address.
    CutOff,
}

/// Walks the stacks of one process.
pub struct Unwinder {
    native: Native,
    modules: Modules,
}

impl Unwinder {
    /// The one of this process. It is kept, and made anew when libraries were loaded or unloaded since.
    ///
    /// It reads `/proc/self/maps`, and allocates: not for signal handlers, nor for an allocator's hook. Those get one that
    /// was made before.
    pub fn of_this_process() -> Result<Arc<Self>, UnwindError> {
        static KEPT: Mutex<Option<Arc<Unwinder>>> = Mutex::new(None);
        let modules = Modules::of_this_process()?;
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);

        match &*kept {
            Some(unwinder) if unwinder.modules == modules => Ok(unwinder.clone()),
            _ => Ok(kept.insert(Arc::new(Self::new(modules))).clone()),
        }
    }

    /// The one of another process, as it is now.
    pub fn of_process(process_id: u32) -> Result<Self, UnwindError> {
        Modules::of_process(process_id).map(Self::new)
    }

    pub(crate) fn new(modules: Modules) -> Self {
        let mut native = Native::new();

        for module in modules.iter() {
            native.add_module(module.for_unwinding());
        }

        Self { native, modules }
    }

    /// What is mapped in the process.
    pub fn modules(&self) -> &Modules {
        &self.modules
    }

    /// Walks a stack from its innermost frame outwards, and gives the address of each frame to `frame`, until that breaks.
    ///
    /// The addresses are for looking things up: each lies within the instruction that is being executed, or within the call
    /// that has not returned yet. `stack` gives the eight bytes at an address of the stack, or nothing where there are none.
    /// It allocates nothing.
    pub fn walk(
        &self,
        registers: &Registers,
        cache: &mut Cache,
        mut stack: impl FnMut(u64) -> Option<u64>,
        mut frame: impl FnMut(u64) -> ControlFlow<()>,
    ) -> End {
        let mut stack = |address| stack(address).ok_or(());
        let mut native = registers.for_unwinding(self.native.max_known_code_address());
        let mut address = FrameAddress::from_instruction_pointer(registers.instruction_pointer);
        let mut last = None;

        for _ in 0..FRAME_LIMIT {
            if frame(address.address_for_lookup()).is_break() {
                return End::Complete;
            }

            match self.native.unwind_frame(address, &mut native, &mut cache.0, &mut stack) {
                Ok(Some(return_address)) => match FrameAddress::from_return_address(return_address) {
                    // Nothing moves any more: a frame pointer that points at itself.
                    Some(next) if last == Some((next, native.sp())) => return End::CutOff,
                    Some(next) => address = next,
                    None => return End::Complete,
                },
                Ok(None) => return End::Complete,
                Err(framehop::Error::ReturnAddressIsNull) => return End::Complete,
                Err(_) => return End::CutOff,
            }

            last = Some((address, native.sp()));
        }

        End::CutOff
    }

    /// Walks the stack that this is called on, from the caller outwards, and fills `addresses`. Returns how many there are.
    ///
    /// It allocates nothing, and takes no lock, from the second call on a thread on; the first one asks the C library where
    /// the stack of the thread ends, which may allocate.
    #[inline(never)]
    pub fn walk_here(&self, cache: &mut Cache, addresses: &mut [u64]) -> usize {
        let registers = Registers::here();
        let stack = sys::stack::bounds_here();
        let mut depth = 0;
        let mut own = true;
        let mut push = |address| {
            if std::mem::take(&mut own) {
                return ControlFlow::Continue(());
            }

            let Some(place) = addresses.get_mut(depth) else { return ControlFlow::Break(()) };
            *place = address;
            depth += 1;
            ControlFlow::Continue(())
        };
        self.walk(&registers, cache, |address| sys::stack::read_own(&stack, &registers, address), &mut push);
        depth
    }
}

impl std::fmt::Debug for Unwinder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Unwinder").field("modules", &self.modules).finish_non_exhaustive()
    }
}
