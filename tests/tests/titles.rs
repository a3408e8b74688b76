//! What `ps` shows of children.

use std::{fs, io, time::Duration};

use async_container_supervisor_tests::{Dir, Program, Signal, proc};

const LIMIT: Duration = Duration::from_secs(60);

/// The command lines of the children, in order, without the NUL characters behind them.
fn titles(pid: u32) -> io::Result<Vec<String>> {
    let mut titles = Vec::new();
    for process in proc::descendants(pid)? {
        let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        titles.push(String::from_utf8_lossy(&line).trim_end_matches('\0').to_owned());
    }
    // The root's is the program's own.
    titles.retain(|line| !line.contains("acs-fixture"));
    titles.sort();
    Ok(titles)
}

fn wait_for(program: &mut Program, expected: [&str; 2]) -> io::Result<()> {
    let pid = program.pid();
    program.wait_for(&format!("the titles {expected:?}"), LIMIT, || Ok((titles(pid)? == expected).then_some(())))
}

#[test]
fn a_child_shows_what_it_is() -> io::Result<()> {
    let dir = Dir::new()?;
    let show = |text: &str| {
        fs::write(dir.file("next"), text)?;
        fs::rename(dir.file("next"), dir.file("title"))
    };
    let arguments = ["titles", "an argument", &"x".repeat(100)];
    let mut program = dir.example("acs-fixture")?.args(arguments).start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    assert_eq!(titles(program.pid())?, ["fixture: worker#1", "fixture: worker#2"]);

    show("TITLE (12 requests)")?;
    wait_for(&mut program, ["fixture: worker#1 (12 requests)", "fixture: worker#2 (12 requests)"])?;
    // The arguments that it has overwritten are still known to the program.
    for worker in ["worker#1", "worker#2"] {
        let line = program.wait_for_stderr(&format!("{worker} was started with"), LIMIT)?;
        assert!(line.ends_with(&format!("{arguments:?}")), "{line}");
    }
    // Nothing is left of a longer one.
    show("TITLE\tidle\n")?;
    wait_for(&mut program, ["fixture: worker#1 idle ", "fixture: worker#2 idle "])?;
    // What there is no room for is cut off where a character begins, and the environment stays as it was.
    show(&"ü".repeat(1000))?;
    let room = 256 + arguments.iter().map(|argument| argument.len() + 1).sum::<usize>();
    let cut = "ü".repeat(room / 2);
    wait_for(&mut program, [&cut, &cut])?;
    for process in program.descendants()? {
        assert!(process.variable("ASYNC_CONTAINER_CHILD").is_some() || process.arguments()[0].contains("acs-fixture"));
    }
    show("")?;
    wait_for(&mut program, ["", ""])?;

    // A child that was replaced has its default title again.
    fs::remove_file(dir.file("title"))?;
    wait_for(&mut program, ["fixture: worker#1", "fixture: worker#2"])?;
    show("TITLE (12 requests)")?;
    wait_for(&mut program, ["fixture: worker#1 (12 requests)", "fixture: worker#2 (12 requests)"])?;
    fs::remove_file(dir.file("title"))?;
    program.signal(Signal::HUP)?;
    program.wait_for_stderr("the new generation is ready", LIMIT)?;
    wait_for(&mut program, ["fixture: worker#1", "fixture: worker#2"])?;
    Ok(())
}

#[test]
fn a_supervisor_shows_how_many_workers_it_has() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("simple")?.args(["--workers", "3"]).start()?;
    let pid = program.pid();
    let shows = |program: &mut Program, text: &str| {
        program.wait_for(text, LIMIT, || Ok(titles(pid)?.iter().any(|title| title.ends_with(text)).then_some(())))
    };
    shows(&mut program, "supervisor#1 (3 workers)")?;
    let supervisor =
        proc::descendants(pid)?.into_iter().find(|process| process.arguments()[0].contains("supervisor#1"));
    supervisor.ok_or_else(|| io::Error::other("no supervisor"))?.signal(Signal::KILL)?;
    shows(&mut program, "supervisor#1 (3 workers)")
}
