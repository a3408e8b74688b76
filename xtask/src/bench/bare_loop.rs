//! The floor of a restart: a loop that only spawns, waits on pidfds, reaps, and spawns again.
//!
//! It knows no policy, no readiness, no signals and no groups, so it is no supervisor; nothing that is one can be
//! quicker. The command is started by posix_spawn, which is what std does when there is nothing to do in between.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, ExitCode},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid},
};

use crate::Result;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many children to keep running
    #[arg(long)]
    count: usize,
    /// The command of each of them
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Keeps the children running until standard input ends.
pub(crate) fn run(arguments: &Arguments) -> Result {
    let mut slots = Vec::with_capacity(arguments.count);
    for _ in 0..arguments.count {
        slots.push(Slot::start(&arguments.command)?);
    }
    let input = io::stdin();
    loop {
        let mut descriptors: Vec<PollFd<'_>> =
            slots.iter().map(|slot| PollFd::new(&slot.pidfd, PollFlags::IN)).collect();
        descriptors.push(PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN));
        match poll(&mut descriptors, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = descriptors.iter().map(|descriptor| !descriptor.revents().is_empty()).collect();
        for (slot, _) in slots.iter_mut().zip(&ready).filter(|(_, ready)| **ready) {
            waitid(WaitId::PidFd(slot.pidfd.as_fd()), WaitIdOptions::EXITED)?;
            *slot = Slot::start(&arguments.command)?;
        }
        if ready.last() == Some(&true) {
            break;
        }
    }
    // All are asked to end before the first one is waited for.
    for slot in &slots {
        pidfd_send_signal(&slot.pidfd, Signal::TERM)?;
    }
    for mut slot in slots {
        slot.child.wait()?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Slot {
    child: Child,
    pidfd: OwnedFd,
}

impl Slot {
    fn start(command: &[String]) -> Result<Slot> {
        let (program, arguments) = command.split_first().ok_or("there is no command to run")?;
        let child = Command::new(program)
            .args(arguments)
            .spawn()
            .map_err(|error| format!("could not start {program}: {error}"))?;
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("a child has no id")?;
        // The id cannot belong to another process yet: nobody but this loop waits for it.
        let pidfd = pidfd_open(id, PidfdFlags::empty())?;
        Ok(Slot { child, pidfd })
    }
}
