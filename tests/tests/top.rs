//! `acs top`, in a terminal, beside a real application.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Program, Signal, Terminal};

const LIMIT: Duration = Duration::from_secs(30);

/// `simple` with two workers, which are ready.
fn simple(dir: &Dir) -> io::Result<Program> {
    let mut program = dir.example("simple")?.args(["--workers", "2"]).start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    Ok(program)
}

fn top(dir: &Dir, rows: u16, columns: u16) -> io::Result<Terminal> {
    dir.binary("acs")?.args(["top", "--interval", "100ms"]).start_in_terminal(rows, columns)
}

/// Waits until all of these are to be seen.
fn shows(terminal: &mut Terminal, parts: &[&str]) -> io::Result<String> {
    terminal.wait_for_screen(&parts.join(", "), LIMIT, |text| parts.iter().all(|part| text.contains(part)))
}

/// The line of a child.
fn line_of<'a>(screen: &'a str, name: &str) -> &'a str {
    screen.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}:\n{screen}"))
}

/// The process ids in the lines of the workers, which are to be seen with them.
fn process_of(screen: &str, name: &str) -> String {
    line_of(screen, name).split_whitespace().nth(1).unwrap_or_default().to_owned()
}

/// The process that all children are children of: the guardian's, which is what was started.
fn root_of(program: &Program) -> io::Result<u32> {
    let pid = program.pid();
    let root = program.descendants()?.into_iter().find(|process| process.parent == pid);
    root.map(|process| process.pid).ok_or(io::ErrorKind::NotFound.into())
}

/// Quits, and checks that the terminal is as it was.
fn quit(mut terminal: Terminal) -> io::Result<()> {
    terminal.type_keys("q")?;
    assert_eq!(terminal.program().wait(LIMIT)?.code(), Some(0));
    is_given_back(&mut terminal)
}

fn is_given_back(terminal: &mut Terminal) -> io::Result<()> {
    terminal.wait_for_end(LIMIT)?;
    assert!(!terminal.is_taken() && terminal.is_cooked()? && !terminal.screen().hide_cursor());
    Ok(())
}

#[test]
fn a_small_terminal_shows_what_matters() -> io::Result<()> {
    let dir = Dir::new()?;
    let program = simple(&dir)?;
    let mut terminal = top(&dir, 24, 80)?;
    let screen = shows(
        &mut terminal,
        &["acs top  ./supervisor.ipc", "generation 1, ready, 3 of 3", "2 connected", "worker#2", "EVENTS"],
    )?;
    let header: Vec<&str> = screen.lines().take(4).map(str::trim_end).collect();
    let clock = header[0].split_whitespace().rev().nth(1).unwrap_or_default();
    assert!(header[0].ends_with(" UTC") && clock.matches(':').count() == 2, "the time of what is shown:\n{screen}");
    assert!(header[1].starts_with(&format!("root pid {}, ", root_of(&program)?)), "{screen}");
    let supervisor = process_of(&screen, "supervisor#1");
    assert!(
        header[2].starts_with("supervisor 0.") && header[2].contains(&format!("pid {supervisor}, up ")),
        "{screen}"
    );
    assert!(header[3].starts_with("host memory ") && header[3].contains(" in use"), "{screen}");
    // A kernel without the files has nothing to tell.
    for (file, word) in [("/proc/pressure/memory", ", pressure "), ("/proc/loadavg", ", load ")] {
        assert_eq!(header[3].contains(word), std::fs::read(file).is_ok(), "{screen}");
    }
    for name in ["supervisor#1", "worker#1", "worker#2"] {
        let line = line_of(&screen, name);
        assert!(line.contains(" ready ") && line.contains("MiB") && line.contains('%'), "{line}");
    }
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    assert!(screen.lines().next_back().is_some_and(|line| line.starts_with("q quit")), "{screen}");
    drop(program);
    quit(terminal)
}

#[test]
fn it_follows_the_size_of_the_terminal() -> io::Result<()> {
    let dir = Dir::new()?;
    let _program = simple(&dir)?;
    let mut terminal = top(&dir, 24, 80)?;
    let small = shows(&mut terminal, &["worker#2", "2 connected"])?;
    assert!(!small.contains("LAST EXIT"));
    terminal.resize(40, 140)?;
    shows(&mut terminal, &["LAST EXIT", "PSS", "worker#2"])?;
    // Smaller than anything is made for: what matters most is there, and nothing breaks.
    terminal.resize(6, 30)?;
    terminal.wait_for_screen("little", LIMIT, |text| text.contains("acs top") && !text.contains("PSS"))?;
    terminal.resize(1, 1)?;
    terminal.resize(24, 80)?;
    shows(&mut terminal, &["worker#2", "q quit"])?;
    quit(terminal)
}

#[test]
fn it_does_without_colours() -> io::Result<()> {
    let dir = Dir::new()?;
    let _program = simple(&dir)?;
    let colours = |terminal: &Terminal| {
        let screen = terminal.screen();
        let cells = (0..24).flat_map(|row| (0..80).map(move |column| (row, column)));
        let cells = cells.filter_map(|(row, column)| screen.cell(row, column).cloned());
        cells.filter(|cell| cell.fgcolor() != vt100::Color::Default || cell.bgcolor() != vt100::Color::Default).count()
    };
    let mut terminal = top(&dir, 24, 80)?;
    shows(&mut terminal, &["worker#2"])?;
    assert!(colours(&terminal) > 0);
    quit(terminal)?;
    for launch in
        [dir.binary("acs")?.arg("top").env("NO_COLOR", "1"), dir.binary("acs")?.args(["top", "--color", "never"])]
    {
        let mut terminal = launch.start_in_terminal(24, 80)?;
        shows(&mut terminal, &["worker#2"])?;
        assert_eq!(colours(&terminal), 0);
        // The one that is selected can be told nevertheless.
        let screen = terminal.screen();
        assert!((0..24).any(|row| screen.cell(row, 1).is_some_and(vt100::Cell::inverse)));
        quit(terminal)?;
    }
    Ok(())
}

#[test]
fn rows_are_sorted_filtered_and_selected() -> io::Result<()> {
    let dir = Dir::new()?;
    let _program = simple(&dir)?;
    let mut terminal = top(&dir, 24, 80)?;
    shows(&mut terminal, &["NAMEv", "supervisor#1:", "worker#2"])?;
    terminal.type_keys("jj")?;
    shows(&mut terminal, &["worker#2: connection "])?;
    terminal.type_keys("S")?;
    let screen = shows(&mut terminal, &["NAME^"])?;
    let place = |name: &str| screen.lines().position(|line| line.starts_with(name));
    assert!(place("worker#2 ") < place("worker#1 ") && place("worker#1 ") < place("supervisor#1 "), "{screen}");
    // The one that was selected is it still.
    assert!(screen.contains("worker#2: connection "));
    terminal.type_keys("Ss")?;
    shows(&mut terminal, &["RSSv"])?;
    terminal.type_keys("/KER#1\r")?;
    terminal.wait_for_screen("worker#1 alone", LIMIT, |text| {
        text.contains("[KER#1]") && text.contains("worker#1: ") && !text.contains("supervisor#1 ")
    })?;
    terminal.type_keys("\x1b")?;
    shows(&mut terminal, &["supervisor#1 "])?;
    terminal.type_keys("?")?;
    shows(&mut terminal, &["help: any key goes back", "filter: a part of the name, state or pid; Esc shows all │"])?;
    // All keys are to be seen in a window of 40 columns, too.
    terminal.resize(12, 40)?;
    terminal.wait_for_screen("all keys", LIMIT, |text| {
        text.starts_with("┌ help") && text.contains("│ Up Down j k  select") && text.contains("│ q Ctrl-C     quit")
    })?;
    // A window that was smaller for a moment only has lost what it showed.
    terminal.resize(24, 80)?;
    shows(&mut terminal, &["pid; Esc shows all │"])?;
    terminal.resize(12, 40)?;
    terminal.resize(24, 80)?;
    shows(&mut terminal, &["pid; Esc shows all │", "q quit"])?;
    terminal.type_keys("x")?;
    terminal.wait_for_screen("the table", LIMIT, |text| !text.contains("any key goes back"))?;
    quit(terminal)
}

#[test]
fn the_last_page_is_a_full_one() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("simple")?.args(["--workers", "8"]).start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let mut terminal = top(&dir, 14, 80)?;
    shows(&mut terminal, &["supervisor#1: ", "8 connected"])?;
    terminal.type_keys("G")?;
    let screen = shows(&mut terminal, &["worker#8: "])?;
    let lines: Vec<&str> = screen.lines().collect();
    let heading = lines.iter().position(|line| line.starts_with("NAMEv"));
    let detail = lines.iter().position(|line| line.starts_with("worker#8: "));
    let (Some(heading), Some(detail)) = (heading, detail) else { panic!("{screen}") };
    // There is no room for all, and none is left empty.
    assert!(detail - heading < 9 && lines[heading + 1..detail].iter().all(|line| line.contains(" ready ")), "{screen}");
    quit(terminal)
}

#[test]
fn a_worker_is_replaced_and_the_application_reloaded() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = simple(&dir)?;
    let mut terminal = top(&dir, 24, 80)?;
    let before = shows(&mut terminal, &["worker#1 ", "2 connected"])?;
    let process_id = process_of(&before, "worker#1");
    terminal.type_keys("jr")?;
    shows(&mut terminal, &[&format!("Replace worker#1 (pid {process_id}) by a fresh process? y/n")])?;
    terminal.type_keys("n")?;
    shows(&mut terminal, &["q quit"])?;
    terminal.type_keys("ry")?;
    // It is told of as well, as others would be.
    shows(&mut terminal, &[" restart  worker  pid ", "asked for in acs top"])?;
    terminal.wait_for_screen("a fresh process", LIMIT, |text| {
        let line = text.lines().find(|line| line.starts_with("worker#1 "));
        line.is_some_and(|line| !line.contains(&process_id) && line.contains(" ready "))
    })?;
    program.wait_for_stderr("asked for in acs top", LIMIT)?;

    // A reload replaces the supervisor as well: it is found again.
    terminal.type_keys("Ry")?;
    let after = shows(&mut terminal, &["generation 2, ready, 3 of 3", "2 connected"])?;
    assert_ne!(process_of(&after, "supervisor#1"), process_of(&before, "supervisor#1"));
    quit(terminal)
}

#[test]
fn a_supervisor_that_is_killed_is_found_again() -> io::Result<()> {
    let dir = Dir::new()?;
    let program = simple(&dir)?;
    let mut terminal = top(&dir, 24, 80)?;
    let before = shows(&mut terminal, &["supervisor#1 ", "2 connected"])?;
    let process_id = process_of(&before, "supervisor#1");
    let supervisors = program.descendants()?;
    let supervisor = supervisors.iter().find(|process| process.pid.to_string() == process_id);
    supervisor.ok_or(io::ErrorKind::NotFound)?.signal(Signal::KILL)?;
    let after = terminal.wait_for_screen("the next one", LIMIT, |text| {
        let line = text.lines().find(|line| line.starts_with("supervisor#1 "));
        line.is_some_and(|line| !line.contains(&process_id) && line.contains(" ready ")) && text.contains("2 connected")
    })?;
    assert!(after.contains("killed by SIGKILL"), "{after}");
    // One that is gone for good is said to be.
    program.signal(Signal::TERM)?;
    let gone = shows(&mut terminal, &["no supervisor listens at ./supervisor.ipc", "when last heard of"])?;
    // What was there is not told to be ready when nobody knows.
    let names = ["supervisor#1 ", "worker#1 ", "worker#2 "];
    let rows: Vec<&str> = gone.lines().filter(|line| names.iter().any(|name| line.starts_with(name))).collect();
    let states: Vec<_> = rows.iter().filter_map(|row| row.split_whitespace().nth(2)).collect();
    assert!(!states.is_empty() && states.iter().all(|state| *state == "?"), "{gone}");
    assert!(!gone.contains("ready"), "{gone}");
    quit(terminal)
}

#[test]
fn the_terminal_is_given_back_however_it_ends() -> io::Result<()> {
    let dir = Dir::new()?;
    let _program = simple(&dir)?;
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let mut terminal = top(&dir, 24, 80)?;
        shows(&mut terminal, &["worker#2"])?;
        assert!(terminal.is_taken() && !terminal.is_cooked()?);
        terminal.program().signal(signal)?;
        assert_eq!(terminal.program().wait(LIMIT)?.code(), Some(status));
        is_given_back(&mut terminal)?;
    }
    let mut terminal = dir.binary("acs")?.args(["--timeout", "500ms", "top"]).start_in_terminal(24, 80)?;
    assert_eq!(terminal.program().wait(LIMIT)?.code(), Some(124));
    is_given_back(&mut terminal)?;
    assert!(terminal.text().contains("timed out after 0.5 s"), "{}", terminal.text());
    let mut terminal = top(&dir, 24, 80)?;
    shows(&mut terminal, &["worker#2"])?;
    terminal.type_keys("\x03")?;
    assert_eq!(terminal.program().wait(LIMIT)?.code(), Some(0));
    is_given_back(&mut terminal)
}

#[test]
fn without_a_terminal_or_a_supervisor_it_says_so() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.binary("acs")?.arg("top").start()?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(2));
    assert!(program.stderr().contains("needs a terminal"), "{}", program.stderr());
    let mut terminal = top(&dir, 24, 80)?;
    assert_eq!(terminal.program().wait(LIMIT)?.code(), Some(3));
    terminal.wait_for_end(LIMIT)?;
    assert!(terminal.text().contains("no supervisor listens at ./supervisor.ipc"), "{}", terminal.text());
    Ok(())
}

#[test]
fn what_workers_count_is_shown() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("utilization")?.args(["--listen", "127.0.0.1:0"]).start()?;
    let line = program.wait_for_stderr("listening listener=\"echo\"", LIMIT)?;
    let address = line.split("address=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let mut terminal = top(&dir, 24, 80)?;
    shows(&mut terminal, &["echo#2 ", "2 connected"])?;
    // A worker has a line for itself, and one for all of its service.
    terminal.type_keys("g")?;
    let mut streams = Vec::new();
    for count in 1..=3 {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"hello\n")?;
        stream.read_exact(&mut [0; 6])?;
        streams.push(stream);
        let sums = format!("all 2 of echo connections_active {count}, connections_total {count}");
        shows(&mut terminal, &["echo#1: ", "utilization ", &sums])?;
    }
    // What each has adds up, whoever accepted.
    let mut own = Vec::new();
    for key in ["g", "j"] {
        terminal.type_keys(key)?;
        let name = format!("echo#{}: ", own.len() + 1);
        let screen = shows(&mut terminal, &[&name, "utilization "])?;
        let line = screen.lines().find(|line| line.starts_with("utilization ")).unwrap_or_default();
        own.push(line.split([' ', ',']).filter_map(|word| word.parse::<u32>().ok()).next().unwrap_or_default());
    }
    assert_eq!(own.iter().sum::<u32>(), 3, "{own:?}");
    drop(streams);
    shows(&mut terminal, &["all 2 of echo connections_active 0, connections_total 3"])?;
    // A supervisor counts nothing. What is counted is no event that would push others out.
    terminal.type_keys("G")?;
    let screen = terminal.wait_for_screen("nothing of the supervisor", LIMIT, |text| {
        text.contains("supervisor#1: ") && !text.contains("utilization ")
    })?;
    assert!(!screen.contains(" metrics "), "{screen}");
    quit(terminal)
}

#[test]
fn a_diagnostic_is_shown_scrolled_and_written() -> io::Result<()> {
    let dir = Dir::new()?;
    let _program = simple(&dir)?;
    let mut terminal = top(&dir, 24, 80)?;
    shows(&mut terminal, &["worker#1 ", "2 connected"])?;
    terminal.type_keys("j\r")?;
    shows(&mut terminal, &["diagnostics", "1 memory-sample  10 s", "7 thread-dump from outside"])?;
    terminal.type_keys("+")?;
    shows(&mut terminal, &["1 memory-sample  30 s"])?;
    terminal.type_keys("3")?;
    let first =
        shows(&mut terminal, &["thread-dump of worker#1  lines 1-22 of", "Thread dump of process ", "Esc back"])?;
    terminal.type_keys("G")?;
    terminal.wait_for_screen("the end", LIMIT, |text| *text != first && !text.contains("Thread dump of process"))?;
    terminal.type_keys("gw\x7f\x7f\x7f\x7f.report\r")?;
    shows(&mut terminal, &["wrote thread-dump-worker-1.report"])?;
    let written = std::fs::read_to_string(dir.file("thread-dump-worker-1.report"))?;
    assert!(written.starts_with("Thread dump of process ") && written.lines().count() > 22, "{written}");
    terminal.type_keys("\x1b")?;
    shows(&mut terminal, &["q quit", "worker#1 "])?;

    // Into a file whose name chooses the form, without being shown.
    terminal.type_keys("djjf")?;
    shows(&mut terminal, &["worker-1-thread-dump.txt_"])?;
    terminal.type_keys("\x7f\x7f\x7fjson\r")?;
    shows(&mut terminal, &["wrote worker-1-thread-dump.json: "])?;
    let document: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.file("worker-1-thread-dump.json"))?)?;
    assert!(document["threads"].is_array());
    // What is no worker can be looked into from outside.
    terminal.type_keys("k\r1")?;
    shows(&mut terminal, &["supervisor#1 is not connected: it can only be looked into from outside"])?;
    quit(terminal)
}
