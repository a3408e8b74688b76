//! The signal that asks a thread of this process for its registers and its stack.

use std::{
    io,
    mem::{size_of, zeroed},
    ptr::null_mut,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, AtomicUsize, Ordering},
    },
};

use super::{
    capture::{Entry, Pool, Ticket},
    registers::Registers,
};

/// Where the search for a signal that is free begins, from the last one downwards: programs that use real-time signals
/// themselves tend to begin with the first.
const FIRST_CHOICE_BELOW_LAST: i32 = 3;

/// Where answers to [`ask`] go.
static ASKED: AtomicPtr<Pool> = AtomicPtr::new(null_mut());

/// Whether handlers measure what they take.
static MEASURED: AtomicBool = AtomicBool::new(false);

/// This process, as of the last time that it asked. To ask the kernel for it takes as long as the rest of a handler.
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// Where samples go that timers ask for.
static SAMPLED: AtomicPtr<Pool> = AtomicPtr::new(null_mut());

/// What timers send at the moment, and zero while nothing is sampled.
static SAMPLING: AtomicU64 = AtomicU64::new(0);

/// Samples for which there was no room.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Who has handled the signal before, for those that are not for us. Zero, the default action, if nobody has.
static PREVIOUS: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);

/// The signal that is in use.
static INSTALLED: Mutex<Option<i32>> = Mutex::new(None);

/// Sets where answers to [`ask`] go, which must live as long as the process, and whether handlers measure what they take.
pub(crate) fn set_asked(pool: &'static Pool, measured: bool) {
    // A process that was forked has another one than the last time.
    PROCESS.store(std::process::id() as i32, Ordering::SeqCst);

    if measured {
        super::capture::calibrate();
    }

    MEASURED.store(measured, Ordering::SeqCst);
    ASKED.store(std::ptr::from_ref(pool).cast_mut(), Ordering::SeqCst);
}

/// Sets where samples go, and by which number they are known.
pub(crate) fn begin_sampling(pool: &'static Pool, number: u64) {
    SAMPLED.store(std::ptr::from_ref(pool).cast_mut(), Ordering::SeqCst);
    LOST.store(0, Ordering::SeqCst);
    SAMPLING.store(number, Ordering::SeqCst);
}

/// From here on, no handler fills a slot any more that is not already at it. Returns how many samples were lost.
pub(crate) fn end_sampling() -> u64 {
    SAMPLING.store(0, Ordering::SeqCst);
    LOST.load(Ordering::SeqCst)
}

/// Makes sure that the signal is handled, and returns which one it is.
///
/// With `wanted`, it is that one, and what was there before is called for signals that are not for us; without, the first
/// one that nobody has a handler for.
pub(crate) fn install(wanted: Option<i32>) -> io::Result<i32> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);

    if let Some(signal) = *installed
        && wanted.is_none_or(|wanted| wanted == signal)
        && current(signal)?.sa_sigaction == handler as *const () as usize
    {
        return Ok(signal);
    }

    let signal = match wanted {
        Some(signal) if !choices().contains(&signal) => {
            let (first, last) = choices().into_inner();
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("signal {signal} cannot be used: choose a real-time signal, from {first} to {last}"),
            ));
        }
        Some(signal) => signal,
        None => free_signal()?,
    };
    let previous = current(signal)?;
    let own = handler as *const () as usize;

    if previous.sa_sigaction != own {
        // What takes one argument only can be called with three: on these architectures they are in registers.
        PREVIOUS.store(previous.sa_sigaction, Ordering::SeqCst);
    }

    // SAFETY: the structure is plain data, for which zeros are valid; the handler has the signature that SA_SIGINFO asks
    // for, and does what is allowed in one: see there.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = own;
        // The other stack of a thread, where there is one: the interrupted one may be nearly full.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigfillset(&mut action.sa_mask);

        if libc::sigaction(signal, &action, null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }

    *installed = Some(signal);
    Ok(signal)
}

/// The real-time signals that can be chosen.
pub(crate) fn choices() -> std::ops::RangeInclusive<i32> {
    libc::SIGRTMIN()..=libc::SIGRTMAX()
}

fn free_signal() -> io::Result<i32> {
    let below = *choices().end() - FIRST_CHOICE_BELOW_LAST;
    let own = handler as *const () as usize;
    (*choices().start()..=below)
        .rev()
        .find(|&signal| current(signal).is_ok_and(|action| [libc::SIG_DFL, own].contains(&action.sa_sigaction)))
        .ok_or_else(|| io::Error::other("this program handles every real-time signal itself"))
}

fn current(signal: i32) -> io::Result<libc::sigaction> {
    // SAFETY: plain data, for which zeros are valid, filled in by the call.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        match libc::sigaction(signal, std::ptr::null(), &mut action) {
            0 => Ok(action),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// What goes with a signal in a field that nobody else uses, so that others can use the same signal.
const MARK: i32 = 0x6163_7364;

/// What goes with a signal, as the kernel lays it out for those that are sent by a process.
#[repr(C)]
struct Information {
    signal: i32,
    error: i32,
    code: i32,
    padding: i32,
    process_id: i32,
    user_id: u32,
    value: u64,
    rest: [u64; 12],
}

const _: () = assert!(size_of::<Information>() == size_of::<libc::siginfo_t>());

/// Asks a thread of this process to fill the slot of the ticket.
pub(crate) fn ask(thread: u32, signal: i32, ticket: Ticket) -> io::Result<()> {
    let information = Information {
        signal,
        error: MARK,
        code: libc::SI_QUEUE,
        padding: 0,
        process_id: std::process::id() as i32,
        user_id: rustix::process::getuid().as_raw(),
        value: ticket.0,
        rest: [0; 12],
    };
    // SAFETY: the structure has the layout and size that the kernel reads.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_tgsigqueueinfo,
            std::process::id() as libc::pid_t,
            thread as libc::pid_t,
            signal,
            &raw const information,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Fills a slot, and nothing else.
///
/// It may come at any instruction: it calls nothing but what is in `capture`, which uses memory that was prepared, atomic
/// numbers, and the system calls gettid, futex and process_vm_readv, and clocks, of which the one that is always read is
/// mapped into the process. `errno`, which some of these set, is put back.
extern "C" fn handler(signal: libc::c_int, information: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: for a handler with SA_SIGINFO, the kernel passes both; the pools live as long as the process; the place of
    // errno belongs to this thread. The layout of the information depends on its code, which is looked at first.
    unsafe {
        let errno = libc::__errno_location();
        let kept = *errno;
        let sent = &*information.cast::<Information>();
        let entry = Entry::now(MEASURED.load(Ordering::Relaxed));
        let registers = Registers::interrupted(&*context.cast());
        // Both kinds have their value at the same place, behind two numbers of four bytes.
        let is_own = sent.error == MARK && sent.process_id == PROCESS.load(Ordering::SeqCst);

        match sent.code {
            libc::SI_QUEUE if is_own => {
                if let Some(pool) = ASKED.load(Ordering::SeqCst).as_ref() {
                    pool.answer(Ticket(sent.value), registers, entry);
                }
            }
            // A timer's signal has, in the places of the process and the user, the timer and how often it has expired since.
            libc::SI_TIMER if sent.value != 0 => {
                let wanted = || SAMPLING.load(Ordering::SeqCst) == sent.value;

                if wanted()
                    && let Some(pool) = SAMPLED.load(Ordering::SeqCst).as_ref()
                    && !pool.answer_anywhere(registers, entry, sent.user_id.saturating_add(1), wanted)
                {
                    LOST.fetch_add(1, Ordering::Relaxed);
                }
            }
            _ => {
                let previous = PREVIOUS.load(Ordering::SeqCst);

                if ![libc::SIG_DFL, libc::SIG_IGN].contains(&previous) {
                    type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
                    std::mem::transmute::<usize, Handler>(previous)(signal, information, context);
                }
            }
        }

        *errno = kept;
    }
}
