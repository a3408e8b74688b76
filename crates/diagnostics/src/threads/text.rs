//! A dump, for people.

use std::fmt;

use super::{Thread, ThreadDump};

/// How many ids of threads that all do the same are written.
const IDS_LIMIT: usize = 12;

impl fmt::Display for ThreadDump {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process_id, command, threads, .. } = self;
        let plural = if threads.len() == 1 { "" } else { "s" };
        writeln!(formatter, "Thread dump of process {process_id}: {command}")?;
        let (count, duration) = (threads.len(), self.duration * 1e3);

        if self.from_outside {
            writeln!(formatter, "{count} thread{plural}, all stopped from outside for {duration:.1} ms")?;
        } else {
            let longest = self.longest_stop * 1e6;
            write!(formatter, "{count} thread{plural}, looked at one by one within {duration:.1} ms, ")?;
            writeln!(formatter, "each held up for {longest:.1} us at most")?;
        }

        for note in &self.notes {
            writeln!(formatter, "Note: {note}")?;
        }

        for group in groups(threads) {
            writeln!(formatter)?;
            write_group(formatter, &group)?;
        }

        Ok(())
    }
}

/// Threads that do the same, each group where its first one stands.
fn groups(threads: &[Thread]) -> Vec<Vec<&Thread>> {
    let mut groups: Vec<Vec<&Thread>> = Vec::new();
    let mut by_stack = std::collections::HashMap::new();

    for thread in threads {
        let key = (thread.state, &thread.waits_for, &thread.note, &thread.frames, thread.cut_off);
        // Without a stack, nothing says that they do the same.
        let place = if thread.frames.is_empty() { None } else { Some(*by_stack.entry(key).or_insert(groups.len())) };

        match place.and_then(|place| groups.get_mut(place)) {
            Some(group) => group.push(thread),
            None => groups.push(vec![thread]),
        }
    }

    groups
}

fn write_group(formatter: &mut fmt::Formatter<'_>, group: &[&Thread]) -> fmt::Result {
    let Some(first) = group.first() else { return Ok(()) };
    let cpu_time: f64 = group.iter().map(|thread| thread.cpu_time).sum();

    if let [thread] = group {
        write!(formatter, "Thread {} \"{}\": {}, {cpu_time:.3} s of CPU time", thread.id, thread.name, thread.state)?;
    } else {
        let mut ids: Vec<String> =
            group.iter().take(IDS_LIMIT).map(|thread| format!("{} \"{}\"", thread.id, thread.name)).collect();

        if group.len() > IDS_LIMIT {
            ids.push(format!("{} more", group.len() - IDS_LIMIT));
        }

        write!(
            formatter,
            "{} threads with the same stack: {}, {cpu_time:.3} s of CPU time together",
            group.len(),
            first.state
        )?;
        write!(formatter, "\n  {}", ids.join(", "))?;
    }

    writeln!(formatter)?;

    match (&first.waits_for, &first.system_call) {
        (Some(what), _) => write!(formatter, "  waits for {what}")?,
        (None, Some(call)) => write!(formatter, "  in the system call {}", call.name)?,
        (None, None) if first.kernel_function.is_some() => write!(formatter, "  waits")?,
        (None, None) => {}
    }

    if let Some(function) = &first.kernel_function {
        write!(formatter, ", in {function} of the kernel")?;
    }

    if first.waits_for.is_some() || first.system_call.is_some() || first.kernel_function.is_some() {
        writeln!(formatter)?;
    }

    if let Some(note) = &first.note {
        writeln!(formatter, "  {note}")?;
    }

    for (number, frame) in first.frames.iter().enumerate() {
        let inlined = if frame.inlined { " (inlined)" } else { "" };
        writeln!(formatter, "  {number:>3}: {}{inlined}", frame.function)?;

        match (&frame.file, frame.line) {
            (Some(file), Some(line)) => writeln!(formatter, "       at {file}:{line}")?,
            (Some(file), None) => writeln!(formatter, "       at {file}")?,
            _ => {}
        }
    }

    if first.cut_off {
        writeln!(formatter, "       (the stack goes on, but could not be followed)")?;
    }

    Ok(())
}
