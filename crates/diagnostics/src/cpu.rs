//! Where the processor time of this process goes.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use async_container_diagnostics::cpu::CpuProfile;
//!
//! let profiling = std::thread::spawn(|| CpuProfile::new(Duration::from_millis(300)).take());
//! let start = Instant::now();
//! while start.elapsed() < Duration::from_millis(300) {}
//!
//! let samples = profiling.join().unwrap()?;
//! assert!(samples.count() > 0);
//! # Ok::<(), async_container_diagnostics::cpu::CpuProfileError>(())
//! ```
//!
//! Each thread gets a timer that follows its own processor time (`timer_create(2)`), and is sent a signal whenever that has
//! advanced by so much. The handler copies registers and stack, as for a [thread dump](crate::threads), by the same signal;
//! so a thread that waits costs nothing and is not seen, and one that runs is seen in proportion to how much it does.
//! `setitimer(2)` would be one call for all threads, but the kernel would send its signal to whichever thread it likes, which
//! on a busy process is not the one that used the time.
//!
//! New threads are noticed within a tenth of a second. The kernel looks at such timers at its own ticks, so that samples are
//! never closer than these (1 to 10 ms); those that fell between count with the next one. Time in the kernel counts, and is
//! seen as the function that called it.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use crate::{
    report::{Measure, Profile},
    symbols::{Frame, Place, Symbols},
    sys::{
        capture::{Captured, Pool},
        ranges, signal,
        timer::ThreadTimer,
    },
    threads::{Task, tasks, turn, walk_copy},
    unwind::{Cache, UnwindError, Unwinder},
};

/// How many samples may wait to be walked.
const SLOTS: usize = 64;

/// So many are worth being woken for. The others have room until then.
const ENOUGH: u32 = SLOTS as u32 / 4;

/// How often to look for new threads.
const NEW_THREADS: Duration = Duration::from_millis(100);

/// How long to wait for another one that may be about to end, having been cancelled: as long as that takes, and half as long
/// again.
const ENDING: Duration = Duration::from_millis(300);

/// How long a handler that has begun has to come to its end.
const HANDLERS: Duration = Duration::from_millis(100);

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CpuProfileError {
    /// Another one is being taken, and the timers of both would add up.
    #[error("another CPU profile is being taken: wait for it to end")]
    Busy,
    /// The frequency cannot be had.
    #[error("a frequency of {frequency} Hz cannot be had: choose one from 1 to {}", CpuProfile::FREQUENCY_LIMIT)]
    Frequency {
        /// The one that was asked for.
        frequency: u32,
    },
    /// What is mapped in the process could not be read.
    #[error(transparent)]
    Unwind(#[from] UnwindError),
    /// No signal could be set up.
    #[error("could not install a signal handler for the profile")]
    Signal(#[source] io::Error),
    /// The kernel gave no timer, for any thread.
    #[error("could not get timers for the threads")]
    Timers(#[source] io::Error),
    /// The threads could not be listed, or there was no memory for the copies of stacks.
    #[error("could not prepare the profile")]
    Prepare(#[source] io::Error),
}

/// How to take a profile.
#[derive(Clone, Debug)]
pub struct CpuProfile {
    duration: Duration,
    frequency: u32,
    signal: Option<i32>,
}

impl CpuProfile {
    const FREQUENCY: u32 = 99;
    const FREQUENCY_LIMIT: u32 = 1000;

    /// One that takes so long.
    pub fn new(duration: Duration) -> Self {
        Self { duration, frequency: Self::FREQUENCY, signal: None }
    }

    /// Sets how often a thread that runs all the time is looked at, in times a second, from 1 to 1000. Default is 99, which
    /// does not keep in step with what happens a hundred times a second.
    pub fn frequency(mut self, frequency: u32) -> Self {
        self.frequency = frequency;
        self
    }

    /// Sets the signal, as for a [thread dump](crate::threads::Options::signal).
    pub fn signal(mut self, signal: i32) -> Self {
        self.signal = Some(signal);
        self
    }

    /// Takes it. It blocks for as long as it takes.
    pub fn take(&self) -> Result<CpuSamples, CpuProfileError> {
        self.take_unless(&AtomicBool::new(false))
    }

    /// Takes it, until `cancelled` is true: then it ends within a tenth of a second, and gives what there is.
    pub fn take_unless(&self, cancelled: &AtomicBool) -> Result<CpuSamples, CpuProfileError> {
        static TURNS: Mutex<()> = Mutex::new(());
        let _turn = turn(&TURNS, ENDING).ok_or(CpuProfileError::Busy)?;
        let frequency = self.frequency;

        if !(1..=Self::FREQUENCY_LIMIT).contains(&frequency) {
            return Err(CpuProfileError::Frequency { frequency });
        }

        let pool = pool().map_err(CpuProfileError::Prepare)?;
        let signal = signal::install(self.signal).map_err(CpuProfileError::Signal)?;
        let mut round = Round::begin(pool, signal, Duration::from_secs(1) / frequency)?;
        round.run(self.duration, cancelled)?;
        let mut samples = round.end();
        samples.frequency = frequency;
        Ok(samples)
    }
}

/// What was sampled: how often each stack was seen.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CpuSamples {
    /// When that was begun.
    pub at: SystemTime,
    /// For how long samples were taken.
    pub duration: Duration,
    /// How many a thread that runs all the time gets a second.
    pub frequency: u32,
    /// How many samples there was no room for.
    pub lost: u64,
    stacks: HashMap<(String, Vec<u64>), u64>,
    threads_left_out: usize,
    unwinder: Arc<Unwinder>,
}

impl CpuSamples {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.stacks.values().sum()
    }

    /// The processor time that a sample stands for.
    pub fn period(&self) -> Duration {
        Duration::from_secs(1) / self.frequency.max(1)
    }

    /// Each stack: the thread's name, the addresses from the innermost on, and how often it was seen.
    pub fn stacks(&self) -> impl Iterator<Item = (&str, &[u64], u64)> {
        self.stacks.iter().map(|((thread, stack), count)| (thread.as_str(), stack.as_slice(), *count))
    }

    /// What to know when reading it.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();

        if self.lost > 0 {
            notes.push(format!("{} samples were lost, because they came faster than they could be walked", self.lost));
        }

        if self.threads_left_out > 0 {
            notes.push(format!("{} threads block the signal, and are not in it", self.threads_left_out));
        }

        notes
    }

    /// The samples as a report, with the functions looked up, below the names of the threads. It may take a second.
    pub fn profile(&self) -> Profile {
        let measures = vec![Measure::new("samples", "count"), Measure::new("cpu", "nanoseconds")];
        let mut profile = Profile::new("Processor time", measures);
        let period = u64::try_from(self.period().as_nanos()).unwrap_or(u64::MAX);
        let mut notes = self.notes();
        let mut threads: HashMap<&str, Arc<Place>> = HashMap::new();

        for (thread, addresses, count) in self.stacks() {
            // Stacks are told apart by their addresses, so each name needs one: at the end, where no code is.
            let address = u64::MAX - threads.len() as u64;
            let label = threads.entry(thread).or_insert_with(|| named(thread, address)).clone();
            let mut places = Symbols::shared().resolve(self.unwinder.modules(), addresses);

            if let Some(note) = self.note(&places).filter(|note| !notes.iter().any(|known| known == note)) {
                notes.push(note.to_owned());
            }

            places.push(label);
            profile.add(places, &[count, count.saturating_mul(period)]);
        }

        let header = profile.header_mut();
        header.at = self.at;
        header.duration = self.duration;
        header.period = Some((Measure::new("cpu", "nanoseconds"), period));
        header.notes = notes;
        profile
    }

    /// What a better build of the program would add. What libraries lack, nobody can change.
    fn note(&self, places: &[Arc<Place>]) -> Option<&'static str> {
        let program = std::env::current_exe().ok()?;
        let own = |place: &&Arc<Place>| place.module().is_some_and(|module| Path::new(&**module) == program);
        places.iter().filter(own).find_map(|place| place.note)
    }

    /// What was mapped in the process meanwhile.
    pub fn unwinder(&self) -> &Unwinder {
        &self.unwinder
    }
}

/// What stands for a thread at the outer end of its stacks.
fn named(thread: &str, address: u64) -> Arc<Place> {
    let frame = Frame { function: format!("thread {thread}").into(), ..Frame::default() };
    Arc::new(Place { address, frames: vec![frame], is_named: true, ..Place::default() })
}

fn pool() -> io::Result<&'static Pool> {
    static POOL: OnceLock<&'static Pool> = OnceLock::new();

    match POOL.get() {
        Some(pool) => Ok(pool),
        None => Pool::leak(SLOTS).map(|pool| *POOL.get_or_init(|| pool)),
    }
}

/// A profile that is being taken.
struct Round {
    pool: &'static Pool,
    signal: i32,
    /// What goes with the signals of this round.
    number: u64,
    period: Duration,
    start: Instant,
    threads: HashMap<u32, Sampled>,
    unwinder: Arc<Unwinder>,
    cache: Cache,
    stacks: HashMap<(String, Vec<u64>), u64>,
}

/// A thread that is sampled.
struct Sampled {
    name: String,
    /// `None` while it blocks the signal, as every thread does that is just being made.
    timer: Option<ThreadTimer>,
    /// Whether it was looked at again after that: until then, it may have the name of the thread that made it.
    is_settled: bool,
}

impl Round {
    fn begin(pool: &'static Pool, signal: i32, period: Duration) -> Result<Self, CpuProfileError> {
        static ROUNDS: AtomicU64 = AtomicU64::new(1);
        let number = ROUNDS.fetch_add(1, Ordering::Relaxed);
        let unwinder = Unwinder::of_this_process()?;
        pool.prepare(ranges::read().map_err(CpuProfileError::Prepare)?);
        signal::begin_sampling(pool, number);
        let (start, threads) = (Instant::now(), HashMap::new());
        Ok(Self { pool, signal, number, period, start, threads, unwinder, cache: Cache::new(), stacks: HashMap::new() })
    }

    fn run(&mut self, duration: Duration, cancelled: &AtomicBool) -> Result<(), CpuProfileError> {
        self.add_threads()?;
        let mut looked = Instant::now();

        while self.start.elapsed() < duration && !cancelled.load(Ordering::Relaxed) {
            let answers = self.pool.answers();
            self.collect();
            self.pool.wait(answers, ENOUGH, NEW_THREADS.min(duration.saturating_sub(self.start.elapsed())));

            if looked.elapsed() >= NEW_THREADS {
                self.add_threads()?;
                looked = Instant::now();
            }
        }

        Ok(())
    }

    /// Gives timers to threads that are new, and takes them from those that have ended.
    fn add_threads(&mut self) -> Result<(), CpuProfileError> {
        let process_id = std::process::id();
        let own = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let tasks: HashSet<u32> = tasks(process_id).map_err(CpuProfileError::Prepare)?.into_iter().collect();
        self.threads.retain(|thread, _| tasks.contains(thread));
        let mut buffer = Vec::new();

        for thread in tasks {
            if thread == own || self.threads.get(&thread).is_some_and(|sampled| sampled.is_settled) {
                continue;
            }

            let Some(task) = Task::read(process_id, thread, &mut buffer) else { continue };
            let blocks = task.blocks(self.signal);
            let sampled =
                self.threads.entry(thread).or_insert(Sampled { name: String::new(), timer: None, is_settled: false });
            sampled.name = task.name;

            if sampled.timer.is_some() {
                sampled.is_settled = true;
            } else if !blocks {
                match ThreadTimer::new(thread, self.signal, self.number, self.period) {
                    Ok(timer) => sampled.timer = Some(timer),
                    // It has ended meanwhile.
                    Err(error) if error.raw_os_error() == Some(libc::EINVAL) => drop(self.threads.remove(&thread)),
                    Err(error) => return Err(CpuProfileError::Timers(error)),
                }
            }
        }

        Ok(())
    }

    fn collect(&mut self) {
        let Self { pool, unwinder, cache, stacks, threads, .. } = self;
        pool.take_all(|captured: Captured<'_>| {
            let (addresses, _) = walk_copy(unwinder, cache, &captured.registers, captured.stack);
            let name = threads.get(&captured.thread).map_or("", |sampled| sampled.name.as_str());
            *stacks.entry((name.to_owned(), addresses)).or_default() += u64::from(captured.weight);
        });
    }

    fn end(mut self) -> CpuSamples {
        let duration = self.start.elapsed();
        let threads_left_out = self.threads.values().filter(|sampled| sampled.timer.is_none()).count();
        self.stop();
        let lost = signal::end_sampling();
        CpuSamples {
            at: SystemTime::now() - duration,
            duration,
            frequency: 0,
            lost,
            stacks: std::mem::take(&mut self.stacks),
            threads_left_out,
            unwinder: self.unwinder.clone(),
        }
    }

    /// Ends the sampling, and collects what has been sampled.
    fn stop(&mut self) {
        signal::end_sampling();
        self.threads.values_mut().for_each(|sampled| drop(sampled.timer.take()));
        let deadline = Instant::now() + HANDLERS;

        while self.pool.is_busy() && Instant::now() < deadline {
            std::thread::yield_now();
        }

        self.collect();
        self.pool.release();
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        self.stop();
    }
}
