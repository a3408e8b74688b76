//! Taking a dump of this process from within.

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, Metadata},
    io,
    ops::ControlFlow,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Mutex, OnceLock},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{Options, Stop, Task, Thread, ThreadDump, ThreadDumpError, proc, tasks, waits};
use crate::{
    symbols::{Frame, Symbols},
    sys::{
        capture::{Captured, Pool, Ticket},
        clock, memory, ranges, signal,
    },
    unwind::{Cache, End, Registers, Unwinder},
};

/// How many threads may have been asked, and not have answered, at a time. Each takes 64 KiB; with a quarter of them, a dump of many
/// threads takes nearly twice as long, because it waits for each group.
const SLOTS: usize = 16;

/// How often to see whether those that have not answered still can.
const PATIENCE: Duration = Duration::from_millis(20);

/// How often to look for answers while they come. Threads that answer wake nobody: that would take them longer than all the
/// rest.
const PAUSE: Duration = Duration::from_micros(100);

/// How often to look for answers while none come.
const LONGEST_PAUSE: Duration = Duration::from_millis(2);

/// How long to wait for another dump, beyond the time that it takes by itself.
const TURN: Duration = Duration::from_secs(5);

/// How much is read of the stack of a thread that sleeps.
const ASLEEP_LIMIT: usize = 64 << 10;

/// The addresses of a stack's frames.
type Stack = Vec<u64>;

/// A stack, before anything is looked up.
#[derive(Default)]
pub(crate) struct Walked {
    pub(crate) addresses: Stack,
    pub(crate) cut_off: bool,
    pub(crate) note: Option<&'static str>,
    pub(crate) stop: Option<Stop>,
}

pub(super) fn take(options: &Options) -> Result<ThreadDump, ThreadDumpError> {
    static TURNS: Mutex<()> = Mutex::new(());
    let _turn = turn(&TURNS, options.deadline + TURN).ok_or(ThreadDumpError::Busy)?;
    let pool = pool().map_err(ThreadDumpError::Memory)?;
    let signal = signal::install(options.signal).map_err(ThreadDumpError::Signal)?;
    signal::set_asked(pool, options.measured);
    let unwinder = Unwinder::of_this_process()?;
    let process_id = std::process::id();
    let threads = |source| ThreadDumpError::Threads { process_id, source };

    let taken_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let start = Instant::now();
    pool.prepare(ranges::read().map_err(threads)?);
    let mut round = Round::new(pool, signal, &unwinder, start + options.deadline);
    round.measured = options.measured;
    let ids = match &options.only {
        Some(ids) => ids.clone(),
        None => tasks(process_id).map_err(threads)?,
    };
    let found = round.run(process_id, &ids);
    let duration = start.elapsed();
    signal::set_asked(pool, false);
    let longest_stop = round.longest_stop;
    pool.release();

    let symbolised = symbolise(&unwinder, fs::metadata("/proc/self/exe").ok().as_ref(), found);
    Ok(ThreadDump {
        process_id,
        command: proc::command(process_id),
        taken_at,
        duration: duration.as_secs_f64(),
        longest_stop: longest_stop.as_secs_f64(),
        from_outside: false,
        threads: symbolised.0,
        notes: symbolised.1,
    })
}

/// Waits for whoever has the turn. One that was cut in half by a fork would have it for ever in the child.
pub(crate) fn turn(turns: &Mutex<()>, limit: Duration) -> Option<std::sync::MutexGuard<'_, ()>> {
    let deadline = Instant::now() + limit;

    loop {
        match turns.try_lock() {
            Ok(turn) => return Some(turn),
            Err(std::sync::TryLockError::Poisoned(turn)) => return Some(turn.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) if Instant::now() >= deadline => return None,
            Err(std::sync::TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn pool() -> io::Result<&'static Pool> {
    static POOL: OnceLock<&'static Pool> = OnceLock::new();

    match POOL.get() {
        Some(pool) => Ok(pool),
        None => Pool::leak(SLOTS).map(|pool| *POOL.get_or_init(|| pool)),
    }
}

/// Asks all threads, a window of them at a time.
struct Round<'a> {
    pool: &'static Pool,
    signal: i32,
    unwinder: &'a Unwinder,
    cache: Cache,
    deadline: Instant,
    asked: Vec<(Ticket, usize)>,
    measured: bool,
    longest_stop: Duration,
}

/// A thread that is to be asked.
struct Waiting {
    place: usize,
    /// The processor time that it had had before it was looked at.
    before: Option<Duration>,
}

impl<'a> Round<'a> {
    fn new(pool: &'static Pool, signal: i32, unwinder: &'a Unwinder, deadline: Instant) -> Self {
        let cache = Cache::new();
        let (asked, longest_stop) = (Vec::new(), Duration::ZERO);
        Self { pool, signal, unwinder, cache, deadline, asked, measured: false, longest_stop }
    }

    fn run(&mut self, process_id: u32, ids: &[u32]) -> Vec<(Thread, Walked)> {
        let own = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let mut buffer = Vec::new();
        let mut found: Vec<(Task, Option<Walked>)> = Vec::with_capacity(ids.len());
        let mut waiting = VecDeque::with_capacity(ids.len());

        for &id in ids {
            let before = clock::thread_cpu_time(id);
            let Some(task) = Task::read(process_id, id, &mut buffer) else { continue };
            let walked = if id == own {
                Some(self.walk_own())
            } else if task.blocks(self.signal) {
                Some(self.walk_asleep(process_id, &task, "blocks the signal, so this is what /proc tells"))
            } else if task.is_deaf() {
                Some(self.walk_asleep(process_id, &task, "cannot be interrupted now, so this is what /proc tells"))
            } else {
                waiting.push_back(Waiting { place: found.len(), before });
                None
            };
            found.push((task, walked));
        }

        let mut pause = PAUSE;
        let mut last_answer = Instant::now();

        loop {
            let answers = self.pool.answers();
            self.ask(&mut waiting, &mut found);
            self.collect(&mut found);

            if self.asked.is_empty() && waiting.is_empty() {
                break;
            }

            let now = Instant::now();

            if now >= self.deadline {
                break;
            }

            std::thread::sleep(pause.min(self.deadline - now));

            if self.pool.answers() != answers {
                (pause, last_answer) = (PAUSE, Instant::now());
            } else if last_answer.elapsed() >= PATIENCE {
                self.give_up_deaf(process_id, &mut found);
                last_answer = Instant::now();
            } else {
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        }

        self.give_up_all(process_id, &mut found);

        for Waiting { place, .. } in waiting {
            let walked = self.walk_asleep(process_id, &found[place].0, "there was no time left to ask it");
            found[place].1 = Some(walked);
        }

        found
            .into_iter()
            .filter_map(|(task, walked)| {
                let cpu_time = cpu_time(task.id);
                Some((task.into_thread(process_id, cpu_time), walked?))
            })
            .collect()
    }

    /// Asks as many threads as there is room for.
    fn ask(&mut self, waiting: &mut VecDeque<Waiting>, found: &mut [(Task, Option<Walked>)]) {
        let mut armed = Vec::new();

        // The stacks of all of them are copied before the first is asked: those that are woken one by one take the processor from
        // each other in the middle of their handlers.
        while let Some(&Waiting { place, before }) = waiting.front() {
            let Some(ticket) = self.pool.arm(found[place].0.registers) else { break };
            waiting.pop_front();
            armed.push((ticket, place, before));
        }

        for (ticket, place, before) in armed {
            let id = found[place].0.id;

            if before.is_none() || clock::thread_cpu_time(id) != before {
                self.pool.forget(ticket);
            }

            match signal::ask(id, self.signal, ticket) {
                Ok(()) => self.asked.push((ticket, place)),
                Err(error) => {
                    self.pool.disarm(ticket);
                    // One that has ended meanwhile is left out.
                    if error.raw_os_error() != Some(libc::ESRCH) {
                        let note = "too many signals are waiting to be delivered (ulimit -i)";
                        found[place].1 = Some(Walked { note: Some(note), ..Walked::default() });
                    }
                }
            }
        }
    }

    /// Walks the stacks of those that have answered.
    fn collect(&mut self, found: &mut [(Task, Option<Walked>)]) {
        let Self { pool, unwinder, cache, asked, longest_stop, measured, .. } = self;
        asked.retain(|&(ticket, place)| {
            let walked = pool.take(ticket, *measured, |captured| {
                *longest_stop = (*longest_stop).max(captured.took);
                walk_captured(unwinder, cache, &captured)
            });
            let answered = walked.is_some();
            if answered {
                found[place].1 = walked;
            }
            !answered
        });
    }

    /// Waits no longer for threads that have come into a state in which they do not take signals.
    fn give_up_deaf(&mut self, process_id: u32, found: &mut [(Task, Option<Walked>)]) {
        let asked = std::mem::take(&mut self.asked);

        for (ticket, place) in asked {
            let task = &mut found[place].0;
            let state = proc::current_state(process_id, task.id);
            task.state = state.unwrap_or(task.state);
            let is_deaf = state.is_none() || task.is_deaf();

            if is_deaf && self.pool.disarm(ticket) {
                // One that has ended is left out.
                if state.is_some() {
                    let note = "cannot be interrupted now, so this is what /proc tells";
                    found[place].1 = Some(self.walk_asleep(process_id, &found[place].0, note));
                }
            } else {
                self.asked.push((ticket, place));
            }
        }
    }

    fn give_up_all(&mut self, process_id: u32, found: &mut [(Task, Option<Walked>)]) {
        for (ticket, place) in std::mem::take(&mut self.asked) {
            if self.pool.disarm(ticket) {
                let note = "did not answer in time: it has no processor, or waits in the kernel";
                found[place].1 = Some(self.walk_asleep(process_id, &found[place].0, note));
                continue;
            }

            // It is just answering, and there is nothing in the handler that could keep it for long, but another thread
            // that has its processor.
            while self.pool.is_busy() && Instant::now() < self.deadline + PATIENCE * 5 {
                std::thread::yield_now();
            }

            self.asked.push((ticket, place));
            self.collect(found);
            self.asked.clear();
        }
    }

    fn walk_own(&mut self) -> Walked {
        let mut addresses = vec![0; crate::unwind::FRAME_LIMIT];
        let depth = self.unwinder.walk_here(&mut self.cache, &mut addresses);
        addresses.truncate(depth);
        Walked { addresses, note: Some("took this dump"), ..Walked::default() }
    }

    /// Walks the stack of a thread that waits in a system call, from where the kernel says that it is. The frame pointer is
    /// not known, so the walk may end early.
    fn walk_asleep(&mut self, process_id: u32, task: &Task, note: &'static str) -> Walked {
        let note = Some(note);
        let Some(registers) = task.registers else { return Walked { note, ..Walked::default() } };
        let mut stack = vec![0; ASLEEP_LIMIT];
        let length = memory::read_into(process_id, registers.stack_pointer, &mut stack).unwrap_or(0);
        let (addresses, end) = walk_copy(self.unwinder, &mut self.cache, &registers, &stack[..length]);
        Walked { addresses, cut_off: end == End::CutOff, note, stop: None }
    }
}

fn walk_captured(unwinder: &Unwinder, cache: &mut Cache, captured: &Captured<'_>) -> Walked {
    let (addresses, end) = walk_copy(unwinder, cache, &captured.registers, captured.stack);
    let stop =
        captured.stop.map(|stop| Stop { duration: stop.duration.as_secs_f64(), cpu_time: stop.cpu_time.as_secs_f64() });
    Walked { addresses, cut_off: end == End::CutOff, note: None, stop }
}

/// Walks a stack of which a part was copied, from the stack pointer outwards.
pub(crate) fn walk_copy(unwinder: &Unwinder, cache: &mut Cache, registers: &Registers, stack: &[u8]) -> (Stack, End) {
    let mut addresses = Stack::new();
    let read = |address: u64| {
        let at = usize::try_from(address.checked_sub(registers.stack_pointer)?).ok()?;
        let bytes = stack.get(at..at.checked_add(8)?)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    let end = unwinder.walk(registers, cache, read, |address| {
        addresses.push(address);
        ControlFlow::Continue(())
    });
    (addresses, end)
}

/// The processor time of a thread of this process, in seconds.
fn cpu_time(thread: u32) -> f64 {
    clock::thread_cpu_time(thread).map_or(0.0, |time| time.as_secs_f64())
}

/// Looks all functions up, and what there is to say about how the program was built.
pub(crate) fn symbolise(
    unwinder: &Unwinder,
    program: Option<&Metadata>,
    found: Vec<(Thread, Walked)>,
) -> (Vec<Thread>, Vec<String>) {
    let mut notes: Vec<String> = Vec::new();
    let mut frames_of: HashMap<Stack, Vec<Frame>> = HashMap::new();
    let program = unwinder.modules().iter().find(|module| is_same(program, module.path())).cloned();
    let threads = found.into_iter().map(|(mut thread, walked)| {
        let frames = frames_of.entry(walked.addresses).or_insert_with_key(|addresses| {
            let places = Symbols::shared().resolve(unwinder.modules(), addresses);

            for place in &places {
                // What libraries of the system lack, nobody can change.
                let concerns = place.module() == program.as_ref().map(|program| program.name());

                if let Some(note) = place.note
                    && concerns
                    && !notes.iter().any(|known| known == note)
                {
                    notes.push(note.to_owned());
                }
            }

            places.iter().flat_map(|place| place.frames.iter().cloned()).collect()
        });
        thread.frames = frames.clone();
        thread.cut_off = walked.cut_off;
        thread.note = walked.note.map(Into::into);
        thread.stop = walked.stop;

        if let Some(call) = &thread.system_call
            && let Some(better) = waits::by_functions(call, &thread.frames)
        {
            thread.waits_for = Some(better);
        }

        thread
    });
    (threads.collect(), notes)
}

fn is_same(file: Option<&Metadata>, path: &Path) -> bool {
    file.is_some_and(|file| path.metadata().is_ok_and(|other| (file.dev(), file.ino()) == (other.dev(), other.ino())))
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    #[test]
    fn what_does_not_answer_is_waited_for_until_the_deadline_and_no_longer() {
        const DEADLINE: Duration = Duration::from_millis(300);
        const LIMIT: Duration = Duration::from_secs(20);

        let (sender, id) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let silent = thread::spawn(move || {
            sender.send(rustix::thread::gettid().as_raw_nonzero().get() as u32).unwrap();
            ended.recv().unwrap_err();
        });
        let id = id.recv().unwrap();
        let (sender, result) = mpsc::channel();
        thread::spawn(move || {
            let unwinder = Unwinder::of_this_process().unwrap();
            let start = Instant::now();
            // A signal that nobody has a handler for, and that does nothing then: it is as if it never came.
            let mut round = Round::new(pool().unwrap(), libc::SIGURG, &unwinder, start + DEADLINE);
            let found = round.run(std::process::id(), &[id]);
            sender.send((start.elapsed(), found)).is_ok()
        });

        let (time, found) = result.recv_timeout(LIMIT).expect("it waits for ever");
        assert!(time >= DEADLINE, "{time:?}");
        let [(thread, walked)] = &found[..] else { panic!("{} threads", found.len()) };
        assert_eq!(thread.id, id);
        assert!(walked.note.is_some_and(|note| note.contains("did not answer in time")), "{:?}", walked.note);
        drop(end);
        silent.join().unwrap();
    }
}
