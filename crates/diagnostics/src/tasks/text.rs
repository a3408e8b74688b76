//! A dump, for people.

use std::{
    collections::HashMap,
    fmt::{self, Formatter},
};

#[cfg(feature = "stacks")]
use crate::symbols::Frame;

use super::dump::{Runtime, State, Task, TaskDump, plural};
#[cfg(feature = "tokio-taskdump")]
use super::unregistered::Unregistered;

/// Tasks that differ in nothing but their times are written as one if there are more than these.
const ALIKE_LIMIT: usize = 3;

/// So many tasks are named at the top, of each kind that calls for attention.
const ATTENTION_LIMIT: usize = 10;

/// So many functions are shown of where a task waits.
#[cfg(feature = "stacks")]
const FRAME_LIMIT: usize = 16;

impl fmt::Display for TaskDump {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Self { process_id, tasks, .. } = self;
        writeln!(
            formatter,
            "Task dump of process {process_id}{}: {} registered task{}, read at {} within {}",
            if self.from_outside { ", seen from outside" } else { "" },
            tasks.len(),
            plural(tasks.len()),
            Clock(self.taken_at),
            Time(self.duration),
        )?;

        for (number, runtime) in self.runtimes.iter().enumerate() {
            write_runtime(formatter, number, runtime)?;
        }

        for note in &self.notes {
            writeln!(formatter, "Note: {note}")?;
        }

        write_attention(formatter, tasks)?;
        Tree::new(tasks).write(formatter)?;
        #[cfg(feature = "tokio-taskdump")]
        write_unregistered(formatter, &self.unregistered)?;
        #[cfg(feature = "async-backtrace")]
        write_async_backtrace(formatter, &self.async_backtrace)?;
        Ok(())
    }
}

/// Tasks that wait at the same place are written as one.
#[cfg(feature = "tokio-taskdump")]
fn write_unregistered(formatter: &mut Formatter<'_>, tasks: &[Unregistered]) -> fmt::Result {
    if tasks.is_empty() {
        return Ok(());
    }

    let mut groups: Vec<(&Unregistered, usize)> = Vec::new();
    let mut by_likeness = HashMap::new();

    for task in tasks {
        let group = *by_likeness.entry((task.runtime, &task.waits_at)).or_insert_with(|| {
            groups.push((task, 0));
            groups.len() - 1
        });

        if let Some((_, count)) = groups.get_mut(group) {
            *count += 1;
        }
    }

    let are = if tasks.len() == 1 { "is" } else { "are" };
    writeln!(
        formatter,
        "\n{} task{} that {are} not registered, with tokio's numbers:",
        tasks.len(),
        plural(tasks.len())
    )?;

    for (task, count) in groups {
        match count {
            1 => writeln!(formatter, "  task {} of runtime {}", task.task_id, task.runtime)?,
            _ => writeln!(formatter, "  {count} tasks of runtime {}, such as {}", task.runtime, task.task_id)?,
        }

        if task.waits_at.is_empty() {
            writeln!(formatter, "      waits for nothing of tokio's")?;
        }

        for stack in &task.waits_at {
            write_stack(formatter, 2, "waits at", stack)?;
        }
    }

    Ok(())
}

#[cfg(feature = "async-backtrace")]
fn write_async_backtrace(formatter: &mut Formatter<'_>, trees: &[String]) -> fmt::Result {
    if trees.is_empty() {
        return Ok(());
    }

    writeln!(formatter, "\n{} task{} of async-backtrace:", trees.len(), plural(trees.len()))?;
    trees.iter().flat_map(|tree| tree.lines()).try_for_each(|line| writeln!(formatter, "  {line}"))
}

fn write_runtime(formatter: &mut Formatter<'_>, number: usize, runtime: &Runtime) -> fmt::Result {
    let Runtime { flavor, alive_tasks, unregistered, global_queue, workers, .. } = runtime;
    writeln!(
        formatter,
        "Runtime {number} ({flavor}): {alive_tasks} task{} alive, {unregistered} of them not registered; {global_queue} in \
         the shared queue",
        plural(*alive_tasks),
    )?;

    for (number, worker) in workers.iter().enumerate() {
        let (Some(busy), Some(parks), Some(is_parked)) = (worker.busy, worker.parks, worker.is_parked) else {
            continue;
        };
        let state = if is_parked { "has nothing to do" } else { "at work" };
        writeln!(
            formatter,
            "  worker {number}: {state}; parked {parks} time{}, after {} of work",
            plural(parks as usize),
            Time(busy),
        )?;
    }

    Ok(())
}

/// What is not as it should be, before everything else: nobody reads through ten thousand tasks.
fn write_attention(formatter: &mut Formatter<'_>, tasks: &[Task]) -> fmt::Result {
    let blocking = tasks.iter().filter(|task| task.is_late && task.state == State::Running);
    let late = tasks.iter().filter(|task| task.is_late && task.state != State::Running);

    let kinds: [(_, _, Vec<&Task>); 2] = [
        ("blocks its executor", "block their executors", blocking.collect()),
        ("waits for its executor", "wait for their executors", late.collect()),
    ];

    for (one, several, found) in kinds {
        match found.len() {
            0 => continue,
            1 => writeln!(formatter, "\n1 task {one}:")?,
            count => writeln!(formatter, "\n{count} tasks {several}:")?,
        }

        for task in found.iter().take(ATTENTION_LIMIT) {
            write!(formatter, "  ")?;
            write_task(formatter, task)?;
            writeln!(formatter)?;
        }

        if found.len() > ATTENTION_LIMIT {
            writeln!(formatter, "  and {} more", found.len() - ATTENTION_LIMIT)?;
        }
    }

    Ok(())
}

/// Who made whom.
struct Tree<'a> {
    roots: Vec<&'a Task>,
    children: HashMap<u64, Vec<&'a Task>>,
}

impl<'a> Tree<'a> {
    fn new(tasks: &'a [Task]) -> Self {
        let mut tree = Self { roots: Vec::new(), children: HashMap::new() };

        for task in tasks {
            match task.parent {
                Some(parent) => tree.children.entry(parent).or_default().push(task),
                None => tree.roots.push(task),
            }
        }

        tree
    }

    fn write(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        if !self.roots.is_empty() {
            writeln!(formatter)?;
        }

        // Not by recursion: a chain of tasks may be as long as it likes.
        let mut next: Vec<(usize, Vec<&Task>)> =
            self.groups(&self.roots).into_iter().rev().map(|group| (0, group)).collect();

        while let Some((depth, group)) = next.pop() {
            let indent = depth * 2;
            write_group(formatter, indent, &group)?;

            if let [task] = group[..]
                && let Some(children) = self.children.get(&task.id)
            {
                next.extend(self.groups(children).into_iter().rev().map(|group| (depth + 1, group)));
            }
        }

        Ok(())
    }

    /// Tasks of one parent, those that are alike together, each group where its first one stands.
    fn groups(&self, tasks: &[&'a Task]) -> Vec<Vec<&'a Task>> {
        let mut groups: Vec<Vec<&Task>> = Vec::new();
        let mut by_likeness = HashMap::new();

        for &task in tasks {
            if task.is_late || self.children.contains_key(&task.id) {
                groups.push(vec![task]);
                continue;
            }

            let likeness = Likeness::of(task);
            let index = *by_likeness.entry(likeness).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });

            if let Some(group) = groups.get_mut(index) {
                group.push(task);
            }
        }

        let is_crowd = |group: &[&Task]| group.len() > ALIKE_LIMIT;
        groups
            .into_iter()
            .flat_map(|group| match is_crowd(&group) {
                true => vec![group],
                false => group.into_iter().map(|task| vec![task]).collect(),
            })
            .collect()
    }
}

/// What tasks that are written as one have in common.
#[derive(PartialEq, Eq, Hash)]
struct Likeness<'a> {
    name: &'a str,
    file: &'a str,
    line: u32,
    state: State,
    #[cfg(feature = "stacks")]
    waits_at: &'a [Vec<Frame>],
}

impl<'a> Likeness<'a> {
    fn of(task: &'a Task) -> Self {
        Self {
            name: &task.name,
            file: &task.file,
            line: task.line,
            state: task.state,
            #[cfg(feature = "stacks")]
            waits_at: &task.waits_at,
        }
    }
}

fn write_group(formatter: &mut Formatter<'_>, indent: usize, group: &[&Task]) -> fmt::Result {
    let Some(first) = group.first() else { return Ok(()) };
    write!(formatter, "{:indent$}", "")?;

    if let [task] = group {
        write_task(formatter, task)?;

        if let (None, Some(by)) = (task.parent, &task.spawned_by) {
            write!(formatter, ", made by \"{by}\", which has ended")?;
        }

        writeln!(formatter)?;
        writeln!(
            formatter,
            "{:indent$}    {} poll{}: {} busy, the longest {}; {} idle{}",
            "",
            task.polls,
            plural(task.polls as usize),
            Time(task.busy),
            Time(task.longest_poll),
            Time(task.idle),
            Delay(task.delay),
        )?;
    } else {
        let polls: u64 = group.iter().map(|task| task.polls).sum();
        let busy: f64 = group.iter().map(|task| task.busy).sum();
        let longest = group.iter().map(|task| task.longest_poll).fold(0.0, f64::max);
        let shortest_time = group.iter().map(|task| task.state_time).fold(f64::INFINITY, f64::min);
        let longest_time = group.iter().map(|task| task.state_time).fold(0.0, f64::max);
        writeln!(
            formatter,
            "{} tasks \"{}\" at {}:{}: {} for {} to {}",
            group.len(),
            first.name,
            first.file,
            first.line,
            word(first.state),
            Time(shortest_time),
            Time(longest_time),
        )?;
        writeln!(
            formatter,
            "{:indent$}    {polls} polls together: {} busy, the longest {}",
            "",
            Time(busy),
            Time(longest),
        )?;
    }

    #[cfg(feature = "stacks")]
    if !first.runs_at.is_empty() {
        write_stack(formatter, indent, "runs", &first.runs_at)?;
    }

    #[cfg(feature = "stacks")]
    for stack in &first.waits_at {
        write_stack(formatter, indent, "waits at", stack)?;
    }

    Ok(())
}

/// Writes where a task is, from the function of a library that it called. What that does inside is left to reports for
/// programs.
#[cfg(feature = "stacks")]
fn write_stack(formatter: &mut Formatter<'_>, indent: usize, what: &str, stack: &[Frame]) -> fmt::Result {
    // What a macro of a library has put into a function belongs to the line that is in the function's own file.
    let is_doubled = |(number, frame): &(usize, &Frame)| {
        is_of_a_library(frame) && stack.get(number + 1).is_some_and(|next| own_name(next) == own_name(frame))
    };
    let stack: Vec<&Frame> =
        stack.iter().enumerate().filter(|frame| !is_doubled(frame)).map(|(_, frame)| frame).collect();
    let of_libraries = stack.iter().take_while(|frame| is_of_a_library(frame)).count();
    let inner = match of_libraries == stack.len() {
        // All that the task does is a library's, and then that is what there is to show, but for what tokio does inside.
        true => stack.iter().take_while(|frame| is_of_tokio(frame)).count(),
        false => of_libraries,
    };
    let shown = stack.get(inner.saturating_sub(1)..).unwrap_or_default();

    for (number, frame) in shown.iter().take(FRAME_LIMIT).enumerate() {
        let lead = if number == 0 { what } else { "in" };
        write!(formatter, "{:indent$}    {lead:>8} {}", "", own_name(frame))?;

        if let (Some(file), Some(line)) = (&frame.file, frame.line) {
            // A crate and its version say all that there is to say.
            let file =
                file.split_once("/registry/src/").and_then(|(_, file)| file.split_once('/')).map_or(&**file, |it| it.1);
            write!(formatter, " at {file}:{line}")?;
        }

        writeln!(formatter)?;
    }

    Ok(())
}

/// The name of a function. The body of an asynchronous one is a closure to the compiler, which says nothing to a person.
#[cfg(feature = "stacks")]
fn own_name(frame: &Frame) -> &str {
    let mut name = &*frame.function;

    while let Some(of) = name.strip_suffix("::{{closure}}") {
        name = of;
    }

    name
}

#[cfg(feature = "stacks")]
fn is_of_a_library(frame: &Frame) -> bool {
    let is_in_registry = |file: &str| file.contains("/registry/src/") || file.starts_with("/rustc/");
    frame.file.as_deref().is_some_and(is_in_registry) || is_of_tokio(frame)
}

/// It is known by its name where files are not known.
#[cfg(feature = "stacks")]
fn is_of_tokio(frame: &Frame) -> bool {
    let is_its_file = |file: &str| file.contains("/registry/src/") && file.contains("/tokio-");
    match frame.file.as_deref() {
        Some(file) => is_its_file(file),
        None => frame.function.trim_start_matches(['<', '&']).starts_with("tokio::"),
    }
}

/// One task in a line, without its end.
fn write_task(formatter: &mut Formatter<'_>, task: &Task) -> fmt::Result {
    let Task { id, name, file, line, .. } = task;
    write!(formatter, "{id} \"{name}\" at {file}:{line}: ")?;
    let time = Time(task.state_time);

    match (task.state, task.is_late) {
        (State::Running, late) => {
            write!(formatter, "running for {time}")?;

            match task.running {
                Some(other) => write!(formatter, ", polling {other},")?,
                None if late => write!(formatter, ": BLOCKS ITS EXECUTOR,")?,
                None => {}
            }

            if let Some(thread) = &task.thread {
                write!(formatter, " on thread {} \"{}\"", thread.id, thread.name)?;
            }

            Ok(())
        }
        (State::New, false) => write!(formatter, "new, for {time}"),
        (State::New, true) => write!(formatter, "NOT POLLED YET since it was made {time} ago"),
        (State::Woken, false) => write!(formatter, "woken, for {time}"),
        (State::Woken, true) => write!(formatter, "NOT POLLED since it was woken {time} ago"),
        (State::Idle, _) => write!(formatter, "idle for {time}, waiting since {}", Clock(task.since)),
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::New => "new",
        State::Running => "running",
        State::Woken => "woken",
        State::Idle => "idle",
    }
}

/// Seconds, in a unit that suits them.
struct Time(f64);

impl fmt::Display for Time {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let seconds = self.0.max(0.0);
        let whole = seconds as u64;
        // Whole numbers are written in a fraction of the time, and there may be ten thousand tasks.
        let tenths = |number: f64| {
            let tenths = (number * 10.0).round() as u64;
            (tenths / 10, tenths % 10)
        };

        match seconds {
            ..1e-3 => write!(formatter, "{} us", (seconds * 1e6).round() as u64),
            ..0.01 => {
                let (whole, tenth) = tenths(seconds * 1e3);
                write!(formatter, "{whole}.{tenth} ms")
            }
            ..1.0 => write!(formatter, "{} ms", (seconds * 1e3).round() as u64),
            ..100.0 => {
                let (whole, tenth) = tenths(seconds);
                write!(formatter, "{whole}.{tenth} s")
            }
            ..3600.0 => write!(formatter, "{} min {} s", whole / 60, whole % 60),
            ..86400.0 => write!(formatter, "{} h {} min", whole / 3600, whole / 60 % 60),
            _ => write!(formatter, "{} d {} h", whole / 86400, whole / 3600 % 24),
        }
    }
}

/// How long a task waited to be polled, where that is worth a word.
struct Delay(f64);

impl fmt::Display for Delay {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            ..1e-3 => Ok(()),
            seconds => write!(formatter, ", {} of it ready to be polled", Time(seconds)),
        }
    }
}

/// The time of day, of seconds since 1970.
struct Clock(f64);

impl fmt::Display for Clock {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let second = self.0 as u64 % 86400;
        write!(formatter, "{:02}:{:02}:{:02} UTC", second / 3600, second / 60 % 60, second % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_that_suits_them() {
        let times = [0.0, 12e-6, 0.0031, 0.25, 3.21, 75.5, 192.0, 7260.0, 180_000.0].map(|time| Time(time).to_string());
        assert_eq!(
            times,
            ["0 us", "12 us", "3.1 ms", "250 ms", "3.2 s", "75.5 s", "3 min 12 s", "2 h 1 min", "2 d 2 h"]
        );
        assert_eq!(Clock(86400.0 * 365.0 + 3600.0 * 3.0 + 62.9).to_string(), "03:01:02 UTC");
    }
}
