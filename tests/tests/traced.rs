//! A child that somebody looks at with a debugger when it ends: it cannot be collected for as long as that lasts.

use std::fs;
use std::io;
use std::time::Duration;

use async_container_supervisor_tests::{Dir, Program, Signal, Supervisor, has_python, proc};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

/// Traces a process, says so, and lets go of it when its standard input ends.
const TRACER: &str = "
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE = 0x4206
libc.ptrace.argtypes = [ctypes.c_long] * 4
if libc.ptrace(PTRACE_SEIZE, int(sys.argv[1]), 0, 0):
    sys.exit('cannot trace it: error %d' % ctypes.get_errno())
print('traced', flush=True)
sys.stdin.read()
";

/// A debugger of that process, or nothing, and the reason printed, without a Python.
fn trace(dir: &Dir, pid: u32) -> io::Result<Option<Program>> {
    if !has_python("import ctypes") {
        return Ok(None);
    }
    let mut tracer = dir.command("python3").args(["-c", TRACER, &pid.to_string()]).with_input().start()?;
    let path = tracer.stdout_path().to_owned();
    tracer.wait_for("the trace", LIMIT, || Ok(fs::read_to_string(&path)?.contains("traced").then_some(())))?;
    Ok(Some(tracer))
}

fn let_go(mut tracer: Program) -> io::Result<()> {
    tracer.input().take();
    assert!(tracer.wait(LIMIT)?.success(), "{}", tracer.stderr());
    Ok(())
}

/// The copies of `sleep` that run.
fn sleeps(program: &Program) -> io::Result<Vec<proc::Process>> {
    let mut sleeps = program.descendants()?;
    sleeps.retain(|process| process.arguments().first().is_some_and(|name| name == "sleep"));
    Ok(sleeps)
}

/// A root with two children, of which one is traced and has ended. With the tracer, and the process id of that child.
fn start(dir: &Dir) -> io::Result<Option<(Program, Program, u32)>> {
    let mut program = dir
        .example("commands")?
        .env("ASYNC_CONTAINER_GRACEFUL_STOP", "0.2")
        .args(["--count", "2", "--", "sleep", "1000000"])
        .start()?;
    program.wait_for_stderr("child started child=\"command#2\"", LIMIT)?;
    let both = sleeps(&program)?;
    let Some(tracer) = trace(dir, both[0].pid)? else { return Ok(None) };
    both[0].signal(Signal::KILL)?;
    let is_zombie = || Ok(proc::process(both[0].pid).is_some_and(|process| process.state == 'Z').then_some(()));
    program.wait_for("the end of the traced child", LIMIT, is_zombie)?;
    Ok(Some((program, tracer, both[0].pid)))
}

#[test]
fn it_costs_nothing_until_it_is_let_go_and_is_replaced_then() -> io::Result<()> {
    let dir = Dir::new()?;
    let Some((mut program, tracer, traced)) = start(&dir)? else { return Ok(()) };
    let root = proc::process(traced).map(|process| process.parent).unwrap_or_default();
    let before = proc::processor_time(root)?;
    // What is measured is how much it does in this time.
    std::thread::sleep(Duration::from_millis(500));
    let spent = proc::processor_time(root)? - before;
    assert!(spent < Duration::from_millis(100), "the root was busy for {spent:?} of half a second");

    // Others are looked after meanwhile.
    for other in sleeps(&program)? {
        other.signal(Signal::KILL)?;
        program.wait_for_stderr(&format!("child failed child=\"command#2\" pid={}", other.pid), LIMIT)?;
    }
    assert_eq!(program.stderr().matches("child failed").count(), 1, "{}", program.stderr());
    let_go(tracer)?;
    program.wait_for_stderr(&format!("child failed child=\"command#1\" pid={traced}"), LIMIT)?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn its_root_does_not_wait_for_it_for_ever() -> io::Result<()> {
    let dir = Dir::new()?;
    let Some((mut program, tracer, traced)) = start(&dir)? else { return Ok(()) };
    program.signal(Signal::TERM)?;
    program.wait_for_stderr("leaving child behind", LIMIT)?;
    assert!(program.wait(LIMIT)?.success());
    assert!(program.stderr().contains(&format!("pid={traced} doing=\"Z (zombie)")), "{}", program.stderr());
    let_go(tracer)
}

#[test]
fn whoever_wants_to_look_at_it_is_told_who_does_already() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-wrong")?.start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let worker = supervisor.wait_for_workers("the worker", LIMIT, |workers| workers.len() == 1)?.remove(0);
    let Some(tracer) = trace(&dir, worker.pid)? else { return Ok(()) };
    let refused = supervisor.ask("thread_dump", json!({"process_id": worker.pid})).unwrap_err().to_string();
    assert!(refused.contains("NotSupported") && refused.contains("traces it already"), "{refused}");
    let_go(tracer)?;
    supervisor.ask("thread_dump", json!({"process_id": worker.pid}))?;
    Ok(())
}
