//! Wakers that know when they are cloned, which those made of [`std::task::Wake`] do not.

use std::{
    sync::Arc,
    task::{RawWaker, RawWakerVTable, Waker},
};

/// What a waker does.
pub(crate) trait Watched: Send + Sync + 'static {
    /// It is about to be cloned.
    fn cloned(&self);

    /// It was asked to wake.
    fn wake(&self);
}

/// A waker that tells `watched`.
pub(crate) fn waker<T: Watched>(watched: Arc<T>) -> Waker {
    let data = Arc::into_raw(watched).cast();
    // SAFETY: the functions of the table keep to the contract of `RawWaker`. Each waker owns one count of the `Arc` that its
    // data came from: `clone` takes another one, `wake` and `drop` give one back, `wake_by_ref` leaves it. What is shared
    // is `Send` and `Sync`, so they may be called on any thread.
    unsafe { Waker::from_raw(RawWaker::new(data, table::<T>())) }
}

fn table<T: Watched>() -> &'static RawWakerVTable {
    &const { RawWakerVTable::new(clone::<T>, wake::<T>, wake_by_ref::<T>, drop_one::<T>) }
}

#[inline(never)]
unsafe fn clone<T: Watched>(data: *const ()) -> RawWaker {
    // SAFETY: only the table of `T` leads here, with the data of a waker, which owns a count for as long as this is called.
    let watched = unsafe { &*data.cast::<T>() };
    watched.cloned();
    // SAFETY: as above; the count that is added belongs to the new waker.
    unsafe { Arc::increment_strong_count(data.cast::<T>()) };
    RawWaker::new(data, table::<T>())
}

unsafe fn wake<T: Watched>(data: *const ()) {
    // SAFETY: only the table of `T` leads here, with the data of a waker that is given up, and whose count this takes.
    let watched = unsafe { Arc::from_raw(data.cast::<T>()) };
    watched.wake();
}

unsafe fn wake_by_ref<T: Watched>(data: *const ()) {
    // SAFETY: only the table of `T` leads here, with the data of a waker, which owns a count for as long as this is called.
    let watched = unsafe { &*data.cast::<T>() };
    watched.wake();
}

unsafe fn drop_one<T: Watched>(data: *const ()) {
    // SAFETY: only the table of `T` leads here, with the data of a waker that is dropped, and whose count this takes.
    drop(unsafe { Arc::from_raw(data.cast::<T>()) });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[derive(Default)]
    struct Counts {
        clones: AtomicUsize,
        wakes: AtomicUsize,
    }

    impl Watched for Counts {
        fn cloned(&self) {
            self.clones.fetch_add(1, Relaxed);
        }

        fn wake(&self) {
            self.wakes.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn clones_are_counted_and_nothing_is_left() {
        let counts = Arc::new(Counts::default());
        let one = waker(counts.clone());
        let other = one.clone();
        assert!(one.will_wake(&other));
        assert_eq!(Arc::strong_count(&counts), 3);
        one.wake_by_ref();
        one.wake();
        let third = std::thread::spawn(move || other.clone()).join().unwrap();
        drop(third);
        assert_eq!(counts.clones.load(Relaxed), 2);
        assert_eq!(counts.wakes.load(Relaxed), 2);
        assert_eq!(Arc::strong_count(&counts), 1);
    }
}
