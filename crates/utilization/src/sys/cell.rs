//! One word, and what keeps it where it is.

use std::{
    ops::Deref,
    ptr::NonNull,
    sync::{Arc, atomic::AtomicU64},
};

use super::memory::Shared;

/// A word that stays where it is for as long as this does. To reach it takes one load of a pointer.
#[derive(Clone)]
pub(crate) struct Cell {
    word: NonNull<AtomicU64>,
    _owner: Owner,
}

#[derive(Clone)]
#[allow(dead_code)] // What they hold is held to be dropped.
enum Owner {
    Shared(Arc<Shared>),
    Own(Arc<AtomicU64>),
}

// SAFETY: the pointer leads to an `AtomicU64`, which any thread may use, and whose memory `_owner` keeps: a mapping that is
// never moved and is unmapped when its last owner is dropped, or an `Arc`. Both owners can be sent and shared themselves.
unsafe impl Send for Cell {}
// SAFETY: as above; through a shared `Cell` there is only a shared `AtomicU64`.
unsafe impl Sync for Cell {}

impl Cell {
    /// A word of shared memory, if there is one of that index.
    pub(crate) fn shared(memory: &Arc<Shared>, index: usize) -> Option<Self> {
        Some(Self { word: NonNull::from(memory.words().get(index)?), _owner: Owner::Shared(memory.clone()) })
    }

    /// A word of this process alone.
    pub(crate) fn own() -> Self {
        let word = Arc::new(AtomicU64::new(0));
        Self { word: NonNull::from(&*word), _owner: Owner::Own(word) }
    }

    /// Whether others can see it.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self._owner, Owner::Shared(_))
    }
}

impl Deref for Cell {
    type Target = AtomicU64;

    #[inline]
    fn deref(&self) -> &AtomicU64 {
        // SAFETY: it was made from a reference, and what that led to has not moved and has not ended, see `Send`.
        unsafe { self.word.as_ref() }
    }
}
