//! One word, and what keeps it where it is.

use std::{
    ops::Deref,
    ptr::NonNull,
    sync::{Arc, atomic::AtomicU64},
};

use super::{Memory, Shared};

/// A word that stays where it is for as long as this does. To reach it takes one load of a pointer.
pub(crate) struct Cell<M: Memory = Shared> {
    word: NonNull<M::Word>,
    _owner: Owner<M>,
}

#[allow(dead_code)] // What they hold is held to be dropped.
enum Owner<M: Memory> {
    Shared(Arc<M>),
    Own(Arc<M::Word>),
}

// SAFETY: the pointer leads to a word that `_owner` keeps where it is: memory that promises that, or an `Arc`. So this is no
// more than a share of either, and of the word.
unsafe impl<M: Memory + Send + Sync> Send for Cell<M> where M::Word: Send + Sync {}
// SAFETY: as above; through a shared `Cell` there is only a shared word.
unsafe impl<M: Memory + Send + Sync> Sync for Cell<M> where M::Word: Send + Sync {}

impl<M: Memory> Cell<M> {
    /// A word of shared memory, if there is one of that index.
    pub(crate) fn shared(memory: &Arc<M>, index: usize) -> Option<Self> {
        Some(Self { word: NonNull::from(memory.words().get(index)?), _owner: Owner::Shared(memory.clone()) })
    }

    /// Whether others can see it.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self._owner, Owner::Shared(_))
    }
}

impl Cell {
    /// A word of this process alone.
    pub(crate) fn own() -> Self {
        let word = Arc::new(AtomicU64::new(0));
        Self { word: NonNull::from(&*word), _owner: Owner::Own(word) }
    }
}

impl<M: Memory> Clone for Cell<M> {
    fn clone(&self) -> Self {
        let owner = match &self._owner {
            Owner::Shared(memory) => Owner::Shared(memory.clone()),
            Owner::Own(word) => Owner::Own(word.clone()),
        };
        Self { word: self.word, _owner: owner }
    }
}

impl<M: Memory> Deref for Cell<M> {
    type Target = M::Word;

    #[inline]
    fn deref(&self) -> &M::Word {
        // SAFETY: it was made from a reference, and what that led to has not moved and has not ended, see `Send`.
        unsafe { self.word.as_ref() }
    }
}
