//! Every command of every guide, run as a reader would, and what it prints compared with what the guide shows.
//!
//! A block of `console` is a terminal: a line that begins with `$ ` is a command, and what follows is what it prints. A command
//! that ends with ` &` goes on beside the others, and what is shown is what it logs, among other things. `cargo run --example`
//! and `acs` are the programs of this workspace; `kill %1` ends the first that goes on. All blocks of a page run in one directory, one after the other.
//!
//! Two lines are the same if their words are, where process ids, sizes, times and the like stand for each other; `…` stands for
//! anything, on a line of its own for any lines. `BLESS_GUIDES=1` writes what is printed into the pages.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use async_container_supervisor_tests::{Dir, Program, Signal, binary, example, has_python, proc};

const LIMIT: Duration = Duration::from_secs(30);

/// Commands that only look, and may have to look again until what the page shows has come about.
const LOOKS: [&str; 7] = [
    "acs memory-sample",
    "acs memory-dump",
    "acs status",
    "acs workers",
    "acs ready",
    "acs --format json status",
    "curl ",
];

/// How long they look.
const PATIENCE: Duration = Duration::from_secs(20);

/// Programs that are not to be had on the machine of a test. A page shows them in blocks of `sh`, which are not run.
const ELSEWHERE: [&str; 9] =
    ["systemctl", "journalctl", "kubectl", "docker", "install", "sudo", "cargo", "source", "go tool pprof"];

struct Page {
    path: PathBuf,
    lines: Vec<String>,
}

/// A command of a page, and the lines below it.
struct Step {
    command: String,
    /// Where what it prints is shown.
    shown: std::ops::Range<usize>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Page {
    fn read(name: &str) -> io::Result<Self> {
        let path = root().join("docs").join(name);
        let lines = std::fs::read_to_string(&path)?.lines().map(str::to_owned).collect();
        Ok(Self { path, lines })
    }

    /// The lines of each block of that language.
    fn blocks(&self, language: &str) -> Vec<std::ops::Range<usize>> {
        let fence = format!("```{language}");
        let starts = self.lines.iter().enumerate().filter(|(_, line)| **line == fence).map(|(index, _)| index + 1);
        let end = |start: usize| start + self.lines[start..].iter().take_while(|line| *line != "```").count();
        starts.map(|start| start..end(start)).collect()
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for block in self.blocks("console") {
            let commands: Vec<usize> = block.clone().filter(|index| self.lines[*index].starts_with("$ ")).collect();
            for (number, index) in commands.iter().enumerate() {
                let end = commands.get(number + 1).copied().unwrap_or(block.end);
                steps.push(Step { command: self.lines[*index][2..].to_owned(), shown: index + 1..end });
            }
        }
        steps
    }
}

const UNITS: [&str; 15] =
    ["kB", "MB", "ns", "us", "ms", "s", "min", "h", "d", "B", "KiB", "MiB", "GiB", "µs", "seconds"];

/// A line with what differs from run to run made the same: numbers of more than one digit, or with a unit.
fn normal(line: &str) -> String {
    let mut words = line.split_whitespace().peekable();
    let mut text: Vec<String> = Vec::new();
    while let Some(word) = words.next() {
        let core = core(word);
        let unit = words.peek().map_or("", |next| self::core(next));
        let mut normal = match is_number(core) {
            true if UNITS.contains(&unit) => words.next().unwrap_or_default().replace(unit, "N"),
            true if core.len() > 1 => word.replace(core, "N"),
            _ if is_name(core) => word.replace(core, "N"),
            _ => word.to_owned(),
        };
        // `3 min 12 s` is one number.
        if normal.starts_with('N') && text.last().is_some_and(|last| last == "N") {
            text.pop();
        }
        text.push(std::mem::take(&mut normal));
    }
    text.join(" ")
}

fn core(word: &str) -> &str {
    word.trim_matches(|character: char| "(),:;\"[]".contains(character))
}

fn is_number(word: &str) -> bool {
    word.chars().any(|character| character.is_ascii_digit())
        && word.chars().all(|character| character.is_ascii_digit() || ".%+-_".contains(character))
}

/// Whether this is the beginning of a connection id, or a moment.
fn is_name(word: &str) -> bool {
    let is_id = word.len() == 8 && word.chars().all(|character| character.is_ascii_hexdigit());
    is_id || word.len() >= 20 && word.contains('T') && word.ends_with('Z')
}

/// Whether one line is shown by another, in which `…` stands for anything.
fn is_shown(shown: &str, printed: &str) -> bool {
    let (shown, printed) = (normal(shown), normal(printed));
    let mut parts = shown.split('…');
    let Some(mut rest) = parts.next().and_then(|first| printed.strip_prefix(first)) else { return false };
    let mut last = None;
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
        last = Some(part);
    }
    rest.is_empty() || last.is_some_and(|part| part.is_empty() || printed.ends_with(part))
}

/// Whether the lines are those that are shown.
fn are_shown(shown: &[String], printed: &[&str]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first.trim() == "…" => {
            (0..=printed.len()).any(|from| are_shown(rest, &printed[from..]))
        }
        Some((first, rest)) => {
            printed.split_first().is_some_and(|(line, others)| is_shown(first, line) && are_shown(rest, others))
        }
    }
}

/// The command with the programs of this workspace in it.
fn resolved(command: &str) -> io::Result<String> {
    let Some(arguments) = command.strip_prefix("cargo run --example ") else {
        return Ok(command.to_owned());
    };
    let (name, arguments) = arguments.split_once(' ').unwrap_or((arguments, ""));
    Ok(format!("exec {} {}", example(name)?.display(), arguments.trim_start_matches("-- ")))
}

/// Runs a command to its end, and gives what it printed.
fn run(dir: &Dir, command: &str) -> io::Result<String> {
    let acs = binary("acs")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let folder = acs.parent().unwrap_or(Path::new("."));
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1; {}", resolved(command)?)])
        .current_dir(dir.path())
        .env("PATH", format!("{}:{path}", folder.display()))
        .env_remove("ACS_SOCKET")
        .stdin(Stdio::null())
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a page, and returns what differs; or writes what was printed into it.
fn check(name: &str) -> io::Result<()> {
    let mut page = Page::read(name)?;
    let dir = Dir::new()?;
    let mut programs: Vec<Program> = Vec::new();
    let mut printed = Vec::new();
    let is_blessed = std::env::var_os("BLESS_GUIDES").is_some();

    for step in page.steps() {
        let shown = &page.lines[step.shown.clone()];
        if let Some(command) = step.command.strip_suffix(" &") {
            let mut program = dir.command("sh").args(["-c", &resolved(command)?]).start()?;
            for line in shown.iter().filter(|line| line.trim() != "…") {
                program.wait_for_stderr(line.trim_matches('…').trim(), LIMIT)?;
            }
            programs.push(program);
            printed.push(None);
            continue;
        }

        if let Some(number) = step.command.strip_prefix("kill %") {
            let number: usize = number.parse().map_err(io::Error::other)?;
            programs[number - 1].signal(Signal::TERM)?;
            programs[number - 1].wait(LIMIT)?;
            printed.push(None);
            continue;
        }

        let start = Instant::now();
        let may_wait = LOOKS.iter().any(|look| step.command.starts_with(look));
        let text = loop {
            let text = run(&dir, &step.command)?;
            let is_right = are_shown(shown, &text.lines().collect::<Vec<_>>());
            if is_right || !may_wait || start.elapsed() > PATIENCE || is_blessed && start.elapsed().as_secs() >= 3 {
                break text;
            }
            std::thread::sleep(Duration::from_millis(100));
        };

        if is_blessed {
            let is_right = are_shown(shown, &text.lines().collect::<Vec<_>>());
            printed.push((!is_right).then_some(text));
            continue;
        }

        assert!(
            are_shown(shown, &text.lines().collect::<Vec<_>>()),
            "docs/{name}: $ {}\nprints:\n{text}\nbut the page shows:\n{}",
            step.command,
            shown.join("\n")
        );
    }

    if is_blessed {
        for (step, text) in page.steps().into_iter().zip(printed).rev() {
            if let Some(text) = text {
                page.lines.splice(step.shown, text.lines().map(str::to_owned));
            }
        }
        std::fs::write(&page.path, page.lines.join("\n") + "\n")?;
    }
    Ok(())
}

macro_rules! guides {
    ($($test:ident: $page:literal,)*) => {
        $(
            #[test]
            fn $test() -> io::Result<()> {
                check($page)
            }
        )*

        const PAGES: &[&str] = &[$($page),*];
    };
}

guides! {
    getting_started: "getting-started.md",
    containers: "containers.md",
    memory_monitor: "memory-monitor.md",
    process_monitor: "process-monitor.md",
    diagnostics: "diagnostics.md",
    writing_a_monitor: "writing-a-monitor.md",
    custom_operations: "custom-operations.md",
    acs: "acs.md",
    operations: "operations.md",
    systemd: "systemd.md",
    kubernetes: "kubernetes.md",
    migrating: "migrating.md",
}

#[test]
fn every_page_is_linked_and_what_is_not_run_could_not_be() -> io::Result<()> {
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    for entry in std::fs::read_dir(root().join("docs"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(stem) = name.strip_suffix(".md") else { continue };
        assert!(readme.contains(&format!("docs/{name}")), "the README does not link docs/{name}");
        // These are checked by tests of their own.
        if ["protocol", "parity", "metrics", "utilization"].contains(&stem) {
            continue;
        }
        let page = Page::read(&name)?;
        assert!(page.steps().is_empty() || PAGES.contains(&name.as_str()), "docs/{name} is not run by a test");
        for index in page.blocks("sh").into_iter().flatten() {
            let line = page.lines[index].trim();
            let is_elsewhere = ELSEWHERE.iter().any(|program| line.starts_with(program));
            assert!(line.is_empty() || line.starts_with('#') || is_elsewhere, "docs/{name} could run: {line}");
        }
    }
    Ok(())
}

/// All pages that may show code.
fn pages() -> io::Result<Vec<(String, String)>> {
    let mut pages = vec![("README.md".to_owned(), std::fs::read_to_string(root().join("README.md"))?)];
    for entry in std::fs::read_dir(root().join("docs"))? {
        let entry = entry?;
        let name = format!("docs/{}", entry.file_name().to_string_lossy());
        if name.ends_with(".md") {
            pages.push((name, std::fs::read_to_string(entry.path())?));
        }
    }
    Ok(pages)
}

/// The text of each block of that language.
fn blocks<'a>(page: &'a str, language: &str) -> impl Iterator<Item = &'a str> {
    let fence = format!("\n```{language}\n");
    let starts: Vec<usize> = page.match_indices(&fence).map(|(at, fence)| at + fence.len()).collect();
    starts.into_iter().map(|start| page[start..].split("\n```").next().unwrap_or_default())
}

#[test]
fn code_of_every_page_is_compiled() -> io::Result<()> {
    // By the documentation tests of the examples.
    let compiled = std::fs::read_to_string(root().join("examples/src/lib.rs"))?;
    for (name, text) in pages()? {
        let fences = text.lines().filter_map(|line| line.strip_prefix("```rust"));
        let fences: Vec<&str> = fences.collect();
        assert!(!fences.iter().any(|fence| fence.contains("ignore")), "{name} has code that is not compiled");
        let is_compiled = compiled.contains(&format!("\"../../{name}\""));
        assert!(fences.is_empty() || is_compiled, "examples/src/lib.rs has to have {name}");
    }
    Ok(())
}

#[test]
fn units_are_what_systemd_understands() -> io::Result<()> {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        println!("skipped: systemd-analyze is not installed");
        return Ok(());
    };
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let version: u32 = version.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or_default();
    let dir = Dir::new()?;
    let page = std::fs::read_to_string(root().join("docs/systemd.md"))?;
    let mut files = Vec::new();
    for unit in blocks(&page, "ini") {
        let kind = if unit.contains("[Service]") { "service" } else { "socket" };
        // What it starts has to exist, as far as it can be told.
        let mut unit = unit.replace("/usr/local/bin/my-app", "/bin/true");
        if version < 253 {
            // As the page says.
            unit = unit.replace("Type=notify-reload", "Type=notify\nExecReload=/bin/kill -HUP $MAINPID");
        }
        let file = dir.path().join(format!("my-app.{kind}"));
        std::fs::write(&file, unit)?;
        files.push(file);
    }
    assert_eq!(files.len(), 2, "docs/systemd.md shows a service and its socket");
    let output = Command::new("systemd-analyze").arg("verify").args(&files).output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    // Units of the machine itself may be wrong, too.
    let ours: Vec<&str> = text.lines().filter(|line| line.contains("my-app")).collect();
    assert!(ours.is_empty(), "{text}");
    Ok(())
}

#[test]
fn manifests_are_yaml_with_what_kubernetes_expects() -> io::Result<()> {
    if !has_python("import yaml") {
        return Ok(());
    }
    let mut found = 0;
    for (name, text) in pages()? {
        for block in blocks(&text, "yaml") {
            let script = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.argv[1])), sys.stdout)";
            let output = Command::new("python3").args(["-c", script, block]).output()?;
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            let documents: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)?;
            for document in documents {
                found += 1;
                if document["kind"] != "Deployment" {
                    continue;
                }
                let pod = &document["spec"]["template"];
                assert_eq!(document["apiVersion"], "apps/v1", "{name}");
                assert_eq!(document["spec"]["selector"]["matchLabels"], pod["metadata"]["labels"], "{name}");
                assert!(pod["spec"]["terminationGracePeriodSeconds"].is_u64(), "{name}");
                is_pod(&name, &pod["spec"]);
            }
        }
    }
    assert!(found > 0, "no page has a manifest");
    Ok(())
}

/// Whether the keys are those that the API of Kubernetes has, and the probes are commands of `acs` that exist.
fn is_pod(name: &str, pod: &serde_json::Value) {
    const CONTAINER: [&str; 12] = [
        "name",
        "image",
        "args",
        "command",
        "workingDir",
        "env",
        "ports",
        "resources",
        "startupProbe",
        "readinessProbe",
        "livenessProbe",
        "volumeMounts",
    ];
    const PROBE: [&str; 6] =
        ["exec", "periodSeconds", "failureThreshold", "timeoutSeconds", "initialDelaySeconds", "successThreshold"];
    let keys = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default()
    };
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let containers = list(&pod["containers"]);
    assert!(!containers.is_empty(), "{name}: a pod has containers");
    let volumes: Vec<serde_json::Value> = list(&pod["volumes"]).iter().map(|volume| volume["name"].clone()).collect();
    for container in containers {
        for key in keys(&container) {
            assert!(CONTAINER.contains(&key.as_str()), "{name}: a container has no {key}");
        }
        for mount in list(&container["volumeMounts"]) {
            assert!(volumes.contains(&mount["name"]), "{name}: no volume {}", mount["name"]);
        }
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"].map(|probe| &container[probe]) {
            for key in keys(probe) {
                assert!(PROBE.contains(&key.as_str()), "{name}: a probe has no {key}");
            }
            let command: Vec<String> =
                list(&probe["exec"]["command"]).iter().filter_map(|word| word.as_str().map(str::to_owned)).collect();
            assert_eq!(command.len(), list(&probe["exec"]["command"]).len(), "{name}: words of a command are strings");
            let Some((program, arguments)) = command.split_first() else { continue };
            assert_eq!(program, "acs", "{name}");
            let status = binary("acs").and_then(|acs| {
                Command::new(acs).args(arguments).env("ACS_SOCKET", "/nowhere/supervisor.ipc").output()
            });
            let status = status.map(|output| output.status.code());
            assert!(matches!(status, Ok(Some(3))), "{name}: acs does not understand {arguments:?}: {status:?}");
        }
    }
}

/// The names of variables of the environment that the code has: words of at least two parts in capitals, in quotes.
fn variables(folder: &Path, found: &mut BTreeSet<String>) -> io::Result<()> {
    const PREFIXES: [&str; 8] =
        ["ASYNC_CONTAINER_", "ACS_", "NOTIFY_", "LISTEN_", "WATCHDOG_", "RUST_", "NO_COLOR", "MAIN_"];
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            variables(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            for text in std::fs::read_to_string(&path)?.split('"') {
                let is_name = text.chars().all(|character| character.is_ascii_uppercase() || character == '_');
                if is_name && PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
                    found.insert(text.to_owned());
                }
            }
        }
    }
    Ok(())
}

#[test]
fn tables_of_operations_are_complete() -> io::Result<()> {
    let page = Page::read("operations.md")?.lines.join("\n");
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("crates"))? {
        variables(&entry?.path().join("src"), &mut names)?;
    }
    assert!(names.contains("ACS_SOCKET") && names.contains("NOTIFY_PIPE"), "{names:?}");
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "docs/operations.md does not have {name}");
    }
    let codes = std::fs::read_to_string(root().join("crates/container/src/exit.rs"))?;
    let codes = codes.lines().filter_map(|line| line.trim().strip_prefix("pub const ")?.split_once(": u8 = "));
    for (name, status) in codes.filter(|(name, _)| *name != "GUARDIAN_KILLED") {
        let status = status.trim_end_matches(';');
        assert!(page.contains(&format!("\n| {status} | ")), "docs/operations.md does not have {name}, {status}");
    }
    Ok(())
}

/// The first cells of the table that is below that heading of a page, without what follows a slash at their end.
fn first_cells(page: &Page, heading: &str) -> BTreeSet<String> {
    let lines = page.lines.iter().skip_while(|line| *line != heading).skip(1).skip_while(|line| !line.starts_with('|'));
    let cells = lines.take_while(|line| line.starts_with('|')).skip(2).filter_map(|line| line.split('|').nth(1));
    cells.map(|cell| cell.trim().to_owned()).collect()
}

/// All files, sockets and directories below a directory, as the table of files calls them.
fn files(directory: &Path, below: &str, found: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match (entry.file_type()?.is_dir(), below) {
            (true, "") => {
                found.insert(format!("`{name}/`"));
                files(&entry.path(), &format!("{name}/"), found)?;
            }
            (true, _) => {
                let kind = name.split('-').next().unwrap_or_default();
                found.insert(format!("`{below}{kind}-…/`"));
                files(&entry.path(), "…/", found)?;
            }
            (false, _) => drop(found.insert(format!("`{below}{name}`"))),
        }
    }
    Ok(())
}

#[test]
fn tables_of_signals_and_files_are_what_a_program_does() -> io::Result<()> {
    let page = Page::read("operations.md")?;
    let dir = Dir::new()?;
    let folder = dir.path().join("app");
    std::fs::create_dir(&folder)?;
    // Its output goes to files beside the folder in which it works.
    let command = format!("cd app && exec {}", example("hang")?.display());
    let mut program = dir.command("sh").args(["-c", &command]).env("NOTIFY_LOG", "notify.log").start()?;
    let line = program.wait_for_stderr("child started", LIMIT)?;
    let child: u32 =
        line.split("pid=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or_default();

    // What the root has handlers for, but for what its runtime and faults of its own need.
    let root = proc::process(child).ok_or(io::ErrorKind::NotFound)?.parent;
    let status = std::fs::read_to_string(format!("/proc/{root}/status"))?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default().trim();
    let mask = u64::from_str_radix(mask, 16).map_err(io::Error::other)?;
    let named = [(1, "SIGHUP"), (2, "SIGINT"), (10, "SIGUSR1"), (12, "SIGUSR2"), (15, "SIGTERM")];
    let name = |number: u32| named.iter().find(|(known, _)| *known == number).map_or("unknown", |(_, name)| *name);
    let of_itself = [Signal::BUS, Signal::SEGV, Signal::CHILD].map(|signal| signal.as_raw() as u32);
    let caught = (1..32).filter(|number| mask & 1 << (number - 1) != 0 && !of_itself.contains(number));
    let caught: BTreeSet<String> = caught.map(|number| name(number).to_owned()).collect();
    let documented: BTreeSet<String> =
        first_cells(&page, "## Signals").iter().flat_map(|cell| cell.split(", ")).map(str::to_owned).collect();
    assert_eq!(documented, &caught | &BTreeSet::from(["SIGKILL".to_owned()]));

    // Until a worker that hangs was looked at and killed, all files are there.
    let written = program.wait_for("the end of an incident", LIMIT, || {
        let mut written = BTreeSet::new();
        files(&folder, "", &mut written)?;
        Ok(written.contains("`…/threads.txt`").then_some(written))
    })?;
    let mut expected = first_cells(&page, "## Files");
    expected.retain(|cell| cell.starts_with('`'));
    // It was not asked for metrics; `tests/metrics.rs` does.
    assert!(expected.remove("`metrics.ipc`"));
    assert!(expected.insert("`notify.log`".to_owned()));
    assert_eq!(written, expected);
    program.signal(Signal::TERM)?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(0));
    assert!(!folder.join("supervisor.ipc").exists() && folder.join("notify.log").exists());
    Ok(())
}

#[test]
fn lines_are_compared_by_their_words() {
    assert!(is_shown("supervisor 0.1.0, pid 4711, up 3 min 12 s", "supervisor 0.2.0, pid 12, up 27 ms"));
    assert!(is_shown("worker#1  4711  9.8 MiB", "worker#1 99  1023 KiB"));
    assert!(!is_shown("worker#1 ready", "worker#2 ready") && !is_shown("generation 2", "generation 3"));
    assert!(is_shown("a … c", "a b b c") && is_shown("… c", "c c") && !is_shown("a … c", "a b d"));
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(are_shown(&lines("a\n…\nc"), &["a", "x", "y", "c"]) && !are_shown(&lines("a\nc"), &["a", "b", "c"]));
}
