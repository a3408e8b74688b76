//! Beginning and ending a recording.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use super::{
    MemoryError, Mode, filter,
    hook::{self, COUNTED, FULL, RECORDER, RECORDING, SAMPLED, STATE},
    recorder::Recorder,
};
use crate::sys::process;

/// The variable that says what is recorded from the first allocation on.
const VARIABLE: &std::ffi::CStr = c"ACS_MEMORY_SAMPLING";

/// Held while a recording begins or ends. Not a mutex, because one that is held during a fork would be for ever in the child.
static CHANGING: AtomicBool = AtomicBool::new(false);

/// How many have asked for what is recorded now, beside [`KEPT`].
static USERS: AtomicUsize = AtomicUsize::new(0);

/// Whether recording goes on when nobody asks any more.
static KEPT: AtomicBool = AtomicBool::new(false);

/// How many count.
static COUNTING: AtomicUsize = AtomicUsize::new(0);

/// The number of the latest recording.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// How often this process has become another one.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Whether the variable could not be understood.
static MISUNDERSTOOD: AtomicBool = AtomicBool::new(false);

struct Changing;

impl Changing {
    fn begin() -> Self {
        while CHANGING.compare_exchange(false, true, SeqCst, SeqCst).is_err() {
            thread::yield_now();
        }

        Self
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        CHANGING.store(false, SeqCst);
    }
}

/// A share in what is recorded, which ends when nobody has one any more.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) recorder: Arc<Recorder>,
    /// Whether it was there before.
    pub(super) is_shared: bool,
    forks: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        // In the child of a fork, nothing is left that this would be a share of.
        if FORKS.load(SeqCst) != self.forks {
            return;
        }

        hook::apart(|| {
            let _changing = Changing::begin();

            if USERS.fetch_sub(1, SeqCst) == 1 && !KEPT.load(SeqCst) {
                end();
            }
        });
    }
}

/// Begins to record, or takes part in what is recorded already, whatever its mode.
pub(super) fn share(mode: Mode) -> Result<Share, MemoryError> {
    if !hook::is_installed() {
        return Err(MemoryError::NotInstalled);
    }

    hook::apart(|| {
        let _changing = Changing::begin();
        let (recorder, is_shared) = match RECORDER.get() {
            Some(recorder) => {
                recorder.newest_unwinder()?;
                (recorder, true)
            }
            None => {
                let recorder = new_recorder(mode);
                recorder.newest_unwinder()?;
                begin(&recorder);
                (recorder, false)
            }
        };
        USERS.fetch_add(1, SeqCst);
        Ok(Share { recorder, is_shared, forks: FORKS.load(SeqCst) })
    })
}

/// Records until [`stop`], beginning anew unless that is what is done already.
pub(super) fn keep(mode: Mode) -> Result<(), MemoryError> {
    if !hook::is_installed() {
        return Err(MemoryError::NotInstalled);
    }

    hook::apart(|| {
        let _changing = Changing::begin();

        match RECORDER.get() {
            Some(recorder) if recorder.mode() != mode => Err(MemoryError::Recording { mode: recorder.mode() }),
            Some(_) => {
                KEPT.store(true, SeqCst);
                Ok(())
            }
            None => {
                let recorder = new_recorder(mode);
                recorder.newest_unwinder()?;
                begin(&recorder);
                KEPT.store(true, SeqCst);
                Ok(())
            }
        }
    })
}

/// Ends what [`keep`] has begun, or what is recorded since the start of the program.
pub(super) fn stop() {
    hook::apart(|| {
        let _changing = Changing::begin();

        if KEPT.swap(false, SeqCst) && USERS.load(SeqCst) == 0 {
            end();
        }
    });
}

/// Begins what is recorded from the first allocation on. Called in the middle of it.
pub(super) fn from_start(mode: Option<Mode>) {
    let mode = match process::variable(VARIABLE) {
        None => mode,
        Some(value) => parse(value).unwrap_or_else(|| {
            MISUNDERSTOOD.store(true, SeqCst);
            mode
        }),
    };

    if let Some(mode) = mode {
        let _changing = Changing::begin();
        // Stacks are learnt to be walked with the first that is: most programs that live briefly never get there.
        begin(&new_recorder(mode));
        KEPT.store(true, SeqCst);
    }
}

/// What is said of a variable that was not understood.
pub(super) const VARIABLE_MISUNDERSTOOD: &str =
    "ACS_MEMORY_SAMPLING was not understood and is ignored: it is off, boot, boot:RATE or boot:full, such as boot:512k";

/// What recording since the start should say of itself.
pub(super) fn note() -> Option<&'static str> {
    MISUNDERSTOOD.load(SeqCst).then_some(VARIABLE_MISUNDERSTOOD)
}

/// `Some(None)` for nothing, `None` if it means nothing.
fn parse(value: &[u8]) -> Option<Option<Mode>> {
    let rate = match value {
        b"" | b"off" | b"0" => return Some(None),
        b"boot" => return Some(Some(Mode::SAMPLED)),
        b"boot:full" => return Some(Some(Mode::Full)),
        _ => value.strip_prefix(b"boot:")?,
    };
    let (digits, factor) = match rate.split_last()? {
        (b'k' | b'K', digits) => (digits, 1 << 10),
        (b'm' | b'M', digits) => (digits, 1 << 20),
        _ => (rate, 1),
    };
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let rate = number.checked_mul(factor).filter(|rate| (1..=Mode::LARGEST_RATE).contains(rate))?;
    Some(Some(Mode::Sampled { rate }))
}

/// Counts until the last one who asked for it has ended. Returns the number of forks, for [`stop_counting`].
pub(super) fn count() -> Option<u64> {
    if !hook::is_installed() {
        return None;
    }

    register_for_forks();
    let _changing = Changing::begin();

    if COUNTING.fetch_add(1, SeqCst) == 0 {
        STATE.fetch_or(COUNTED, SeqCst);
    }

    Some(FORKS.load(SeqCst))
}

pub(super) fn stop_counting(forks: u64) {
    if FORKS.load(SeqCst) != forks {
        return;
    }

    let _changing = Changing::begin();

    if COUNTING.fetch_sub(1, SeqCst) == 1 {
        STATE.fetch_and(!COUNTED, SeqCst);
    }
}

fn new_recorder(mode: Mode) -> Arc<Recorder> {
    Arc::new(Recorder::new(NUMBER.fetch_add(1, SeqCst) + 1, mode))
}

fn begin(recorder: &Arc<Recorder>) {
    register_for_forks();
    let (number, mode) = (recorder.number(), recorder.mode());
    RECORDER.publish(recorder.clone());
    let kind = if mode == Mode::Full { FULL } else { SAMPLED };
    let counted = STATE.load(SeqCst) & COUNTED;
    STATE.store(number << RECORDING | kind | counted, SeqCst);
}

fn end() {
    STATE.fetch_and(COUNTED, SeqCst);
    let recorder = RECORDER.retire();
    // Nobody adds to it any more.
    filter::clear();
    drop(recorder);
}

fn register_for_forks() {
    process::in_forked_children(|| {
        // The one thread that is left was in fork, and so in none of our functions; what the others were at is not known, so
        // what they may have held is left as it is, and never touched again.
        STATE.store(if hook::is_installed() { hook::OFF } else { hook::UNKNOWN }, SeqCst);
        RECORDER.abandon();
        CHANGING.store(false, SeqCst);
        USERS.store(0, SeqCst);
        KEPT.store(false, SeqCst);
        COUNTING.store(0, SeqCst);
        FORKS.fetch_add(1, SeqCst);
        filter::clear();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_understood() {
        assert_eq!(parse(b"off"), Some(None));
        assert_eq!(parse(b"boot"), Some(Some(Mode::Sampled { rate: 512 << 10 })));
        assert_eq!(parse(b"boot:full"), Some(Some(Mode::Full)));
        assert_eq!(parse(b"boot:1000"), Some(Some(Mode::Sampled { rate: 1000 })));
        assert_eq!(parse(b"boot:64k"), Some(Some(Mode::Sampled { rate: 64 << 10 })));
        assert_eq!(parse(b"boot:2M"), Some(Some(Mode::Sampled { rate: 2 << 20 })));

        for nonsense in ["boot:", "boot:k", "boot:-1", "boot:0", "boot:99999999999999M", "full", "yes"] {
            assert_eq!(parse(nonsense.as_bytes()), None, "{nonsense}");
        }
    }
}
