//! What the kernel tells of threads.

use std::{
    fs,
    io::{self, Read},
    path::PathBuf,
};

use super::{SystemCall, Thread, waits};
use crate::unwind::Registers;

/// A thread, as `/proc` shows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Task {
    pub(crate) id: u32,
    pub(crate) name: String,
    /// The letter that stands for the state.
    pub(crate) state: u8,
    /// The signals that it does not take, as bits.
    blocked: u64,
    pub(crate) call: Option<SystemCall>,
    /// Where it is in that call: as much of the registers as the kernel tells.
    pub(crate) registers: Option<Registers>,
    kernel_function: Option<String>,
}

/// The threads of a process, in the order of their ids.
pub(crate) fn tasks(process_id: u32) -> io::Result<Vec<u32>> {
    let mut tasks: Vec<u32> = fs::read_dir(format!("/proc/{process_id}/task"))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    tasks.sort_unstable();
    Ok(tasks)
}

impl Task {
    /// `None` if it is gone.
    pub(crate) fn read(process_id: u32, id: u32, buffer: &mut Vec<u8>) -> Option<Self> {
        let folder = PathBuf::from(format!("/proc/{process_id}/task/{id}"));
        let mut file = |name: &str| {
            buffer.clear();
            fs::File::open(folder.join(name)).and_then(|mut file| file.read_to_end(buffer)).ok()?;
            Some(String::from_utf8_lossy(buffer).into_owned())
        };
        let status = file("status")?;
        let mut task = Self { id, ..Self::default() };

        for line in status.lines() {
            match line.split_once(":\t") {
                Some(("Name", name)) => task.name = unescaped(name),
                Some(("State", state)) => task.state = state.bytes().next().unwrap_or_default(),
                Some(("SigBlk", blocked)) => {
                    task.blocked = u64::from_str_radix(blocked, 16).unwrap_or_default();
                    break;
                }
                _ => {}
            }
        }

        if !task.is_running() {
            // Which call it is in, before it is disturbed: a signal takes it out of there.
            (task.call, task.registers) = file("syscall").map(|line| call(&line)).unwrap_or_default();
            task.kernel_function = file("wchan").filter(|name| !name.is_empty() && name != "0");
        }

        Some(task)
    }

    /// One of which only the id is known.
    pub(crate) fn unknown(id: u32) -> Self {
        Self { id, ..Self::default() }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state == b'R'
    }

    /// Whether it would not notice a signal: it waits for a device, was stopped, or is being traced, or has ended.
    pub(crate) fn is_deaf(&self) -> bool {
        !matches!(self.state, b'R' | b'S' | b'I')
    }

    pub(crate) fn blocks(&self, signal: i32) -> bool {
        self.blocked >> (signal - 1) & 1 == 1
    }

    /// The thread without its stack.
    pub(crate) fn into_thread(self, process_id: u32, cpu_time: f64) -> Thread {
        let waits_for = self.call.as_ref().and_then(|call| waits::for_what(process_id, call));
        Thread {
            id: self.id,
            name: self.name,
            state: state(self.state),
            cpu_time,
            waits_for,
            system_call: self.call,
            kernel_function: self.kernel_function,
            ..Thread::default()
        }
    }
}

/// The state that stands there now. `None` if the thread is gone.
pub(crate) fn current_state(process_id: u32, id: u32) -> Option<u8> {
    let stat = fs::read(format!("/proc/{process_id}/task/{id}/stat")).ok()?;
    // The name before it may contain anything, also a parenthesis.
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    stat.get(name_end + 2).copied()
}

/// The processor time of a thread, in seconds, in the steps of the kernel's clock.
pub(crate) fn cpu_time(process_id: u32, id: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{process_id}/task/{id}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut columns = after_name.split_ascii_whitespace().skip(11);
    let ticks = columns.next()?.parse::<u64>().ok()? + columns.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The program and its arguments, or what it calls itself.
pub(crate) fn command(process_id: u32) -> String {
    let line = fs::read(format!("/proc/{process_id}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned();

    if line.is_empty() {
        return fs::read_to_string(format!("/proc/{process_id}/comm")).unwrap_or_default().trim().to_owned();
    }

    line
}

/// Reads a line of `/proc/PID/task/ID/syscall`: a number, six arguments, the stack pointer and the instruction pointer.
fn call(line: &str) -> (Option<SystemCall>, Option<Registers>) {
    let mut words = line.split_ascii_whitespace();
    let Some(number) = words.next().and_then(|number| number.parse::<i64>().ok()) else { return (None, None) };
    let numbers: Vec<u64> =
        words.filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok()).collect();
    let mut arguments = [0; 6];
    let has_arguments = numbers.len() >= 8 && number >= 0;

    if has_arguments {
        arguments.copy_from_slice(&numbers[..6]);
    }

    let registers = match numbers[..] {
        [.., stack_pointer, instruction_pointer] if stack_pointer != 0 => {
            Some(Registers { stack_pointer, instruction_pointer, ..Registers::default() })
        }
        _ => None,
    };
    (has_arguments.then(|| SystemCall { name: waits::name(number), arguments }), registers)
}

fn state(letter: u8) -> &'static str {
    match letter {
        b'R' => "running",
        b'S' => "sleeping",
        b'D' => "waiting for a device",
        b'T' => "stopped",
        b't' => "stopped by a debugger",
        b'I' => "idle",
        b'Z' | b'X' => "ended",
        _ => "unknown",
    }
}

/// The kernel writes a backslash and a line feed in names in its own way.
fn unescaped(name: &str) -> String {
    name.replace("\\n", "\n").replace("\\\\", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_with_its_arguments_and_where_it_is() {
        let line = format!("{} 0x3 0x7f49 0x20000 0x7f4b 0xffffffff 0x0 0x7ffe10 0x7f92ad\n", libc::SYS_read);
        let (call, registers) = call(&line);
        let call = call.unwrap();
        assert_eq!(call.name, "read");
        assert_eq!(call.arguments, [3, 0x7f49, 0x20000, 0x7f4b, 0xffff_ffff, 0]);
        let registers = registers.unwrap();
        assert_eq!((registers.stack_pointer, registers.instruction_pointer), (0x7ffe10, 0x7f92ad));
    }

    #[test]
    fn a_thread_that_runs_is_in_no_call() {
        assert_eq!(call("running\n"), (None, None));
        let (none, registers) = call("-1 0x7ffe10 0x7f92ad\n");
        assert_eq!(none, None);
        assert_eq!(registers.unwrap().instruction_pointer, 0x7f92ad);
    }

    #[test]
    fn the_threads_of_this_process_are_listed() {
        let own = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let process_id = std::process::id();
        assert!(tasks(process_id).unwrap().contains(&own));
        let task = Task::read(process_id, own, &mut Vec::new()).unwrap();
        assert!(task.is_running());
        assert_eq!(current_state(process_id, own), Some(b'R'));
        assert!(cpu_time(process_id, own).is_some());
        assert!(!command(process_id).is_empty());
        assert!(Task::read(process_id, 0, &mut Vec::new()).is_none());
    }
}
