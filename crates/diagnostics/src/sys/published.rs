//! A value that many threads look at without a lock, and that one takes away again.

use std::{
    ops::Deref,
    ptr::null_mut,
    sync::{
        Arc,
        atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// How many counters readers spread over, so that they do not wait for each other's processor.
pub(crate) const STRIPES: usize = 64;

#[repr(align(64))]
struct Stripe(AtomicUsize);

/// A value that is there or not.
///
/// A reader makes itself known in a counter before it looks; whoever takes the value away waits, after that, until all
/// counters have been at zero. So a reader that has seen the value is waited for, and one that comes later sees nothing.
pub(crate) struct Published<T> {
    /// What `Arc::into_raw` gave, or null.
    value: AtomicPtr<T>,
    readers: [Stripe; STRIPES],
}

/// The value, which stays as long as this does.
pub(crate) struct Reading<'a, T> {
    value: &'a T,
    readers: &'a AtomicUsize,
}

impl<T: Send + Sync> Published<T> {
    pub(crate) const fn new() -> Self {
        Self { value: AtomicPtr::new(null_mut()), readers: [const { Stripe(AtomicUsize::new(0)) }; STRIPES] }
    }

    /// Looks at it. It must be brief: whoever takes it away waits. `stripe` is any number, best one for each thread.
    pub(crate) fn enter(&self, stripe: usize) -> Option<Reading<'_, T>> {
        let readers = &self.readers[stripe % STRIPES].0;
        readers.fetch_add(1, SeqCst);
        // SAFETY: the pointer is null or came from `Arc::into_raw`, and that count is given up in `retire` only, after the
        // pointer was replaced and this counter has been at zero. In the one order of all these operations, either this load
        // comes after the replacement, and gives null; or the counter was raised before the replacement, and is waited for.
        match unsafe { self.value.load(SeqCst).as_ref() } {
            Some(value) => Some(Reading { value, readers }),
            None => {
                readers.fetch_sub(1, SeqCst);
                None
            }
        }
    }

    /// A share of it, which may be kept.
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        let reading = self.enter(0)?;
        let pointer: *const T = reading.value;
        // SAFETY: the pointer came from `Arc::into_raw`, and the value is alive for as long as `reading` is, so there is a
        // count that can be added to.
        unsafe {
            Arc::increment_strong_count(pointer);
            Some(Arc::from_raw(pointer))
        }
    }

    /// Puts a value there. What was there before is taken away.
    pub(crate) fn publish(&self, value: Arc<T>) {
        let before = self.value.swap(Arc::into_raw(value).cast_mut(), SeqCst);
        drop(self.wait_for_readers_of(before));
    }

    /// Takes the value away, and waits until nobody looks at it any more.
    pub(crate) fn retire(&self) -> Option<Arc<T>> {
        let before = self.value.swap(null_mut(), SeqCst);
        self.wait_for_readers_of(before)
    }

    fn wait_for_readers_of(&self, before: *mut T) -> Option<Arc<T>> {
        if before.is_null() {
            return None;
        }

        for stripe in &self.readers {
            while stripe.0.load(SeqCst) != 0 {
                thread::yield_now();
            }
        }

        // SAFETY: it came from `Arc::into_raw`, was taken out of its place by the caller, who is therefore the only one to have
        // it, and nobody looks at it: see `enter`.
        Some(unsafe { Arc::from_raw(before) })
    }

    /// Forgets the value and its readers without giving anything back: for the child of a fork, in which the other threads,
    /// some of them readers, do not exist.
    pub(crate) fn abandon(&self) {
        self.value.store(null_mut(), SeqCst);

        for stripe in &self.readers {
            stripe.0.store(0, SeqCst);
        }
    }
}

impl<T> Deref for Reading<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value
    }
}

impl<T> Drop for Reading<'_, T> {
    fn drop(&mut self) {
        self.readers.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;

    #[test]
    fn nobody_sees_a_value_that_was_taken_away() {
        struct Value(AtomicBool);
        impl Drop for Value {
            fn drop(&mut self) {
                self.0.store(false, Ordering::SeqCst);
            }
        }

        static PUBLISHED: Published<Value> = Published::new();
        let seen = AtomicU64::new(0);
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            for stripe in 0..4 {
                let (seen, ended) = (&seen, &ended);
                scope.spawn(move || {
                    while !ended.load(Ordering::SeqCst) {
                        if let Some(value) = PUBLISHED.enter(stripe) {
                            assert!(value.0.load(Ordering::SeqCst), "it was dropped while it was looked at");
                            seen.fetch_add(1, Ordering::SeqCst);
                        }

                        // Else four that never rest keep the one that they race with from a processor for most of the time.
                        thread::yield_now();
                    }
                });
            }

            for _ in 0..500 {
                let before = seen.load(Ordering::SeqCst);
                PUBLISHED.publish(Arc::new(Value(AtomicBool::new(true))));

                while seen.load(Ordering::SeqCst) == before {
                    thread::yield_now();
                }

                let value = PUBLISHED.retire().unwrap();
                assert_eq!(Arc::strong_count(&value), 1);
            }

            ended.store(true, Ordering::SeqCst);
        });
        assert!(PUBLISHED.retire().is_none());
    }

    #[test]
    fn shares_outlive_it() {
        static PUBLISHED: Published<String> = Published::new();
        assert!(PUBLISHED.get().is_none());
        PUBLISHED.publish(Arc::new("first".to_owned()));
        let share = PUBLISHED.get().unwrap();
        PUBLISHED.publish(Arc::new("second".to_owned()));
        assert_eq!(*share, "first");
        assert_eq!(Arc::strong_count(&share), 1);
        assert_eq!(PUBLISHED.retire().as_deref().map(String::as_str), Some("second"));
    }
}
