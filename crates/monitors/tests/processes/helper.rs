//! A process that does what it is told: this test binary, started once more.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use async_container_monitors::{Worker, sample::HostMemory};

const VARIABLE: &str = "MONITORS_TEST_HELPER";

/// The other side: carries out commands until its standard input ends. As an ordinary test it
/// does nothing.
#[test]
fn helper() {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    // The harness has begun a line of its own.
    println!();
    let mut kept = Vec::new();
    let mut children: HashMap<u32, Child> = HashMap::new();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        match line.split_once(' ').unwrap_or((&line, "")) {
            // Not zeros, for which the kernel would share one page.
            ("allocate", bytes) => kept.push(vec![1u8; bytes.parse().unwrap()]),
            ("free", _) => kept.clear(),
            ("nothing", _) => {}
            // 100 MiB of page cache.
            ("cache", path) => std::fs::write(path, vec![1u8; 100 << 20]).unwrap(),
            ("host", _) => println!("{}", serde_json::to_string(&HostMemory::read()).unwrap()),
            ("burn", _) => {
                std::thread::spawn(|| {
                    loop {
                        std::hint::spin_loop();
                    }
                });
            }
            ("spawn", _) => {
                // It ends with its standard input, so it cannot outlive this process.
                let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
                println!("pid {}", child.id());
                children.insert(child.id(), child);
            }
            // A shell that runs this until its standard input, which is this process's, ends.
            ("below", script) => {
                let script = format!("({script}) & read line; kill 0");
                let mut command = Command::new("sh");
                command.args(["-c", &script]).stdin(Stdio::piped()).process_group(0);
                let child = command.spawn().unwrap();
                children.insert(child.id(), child);
            }
            // Not reaped: it stays as a zombie.
            ("kill", process_id) => {
                let process_id: u32 = process_id.parse().unwrap();
                children.get_mut(&process_id).unwrap().kill().unwrap();
            }
            (command, _) => panic!("unknown command: {command}"),
        }
        println!("done");
        std::io::stdout().flush().unwrap();
    }
    std::process::exit(0);
}

pub struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Helper {
    pub fn spawn() -> Self {
        Self::spawn_as(&std::env::current_exe().unwrap())
    }

    /// Starts it under the name of this path, which leads to the test binary.
    pub fn spawn_as(path: &Path) -> Self {
        let mut child = Command::new(path)
            .args(["--exact", "helper::helper", "--nocapture", "--test-threads=1"])
            .env(VARIABLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut helper = Self { child, stdin, stdout };
        // From then on the harness has all its threads.
        helper.run("nothing");
        helper
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    pub fn worker(&self, id: &str) -> Worker {
        Worker { id: id.into(), process_id: self.process_id(), name: "helper".into() }
    }

    /// Has a command carried out, and returns what it printed, once it is done.
    pub fn run(&mut self, command: &str) -> String {
        writeln!(self.stdin.as_mut().unwrap(), "{command}").unwrap();
        let mut output = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "the helper ended");
            if line == "done\n" {
                return output;
            }
            output.push_str(&line);
        }
    }

    /// Has a shell below the helper run something, which ends with the helper.
    pub fn run_below(&mut self, script: &str) {
        self.run(&format!("below {script}"));
    }

    /// Starts a process below the helper, which does nothing.
    pub fn spawn_child(&mut self) -> u32 {
        let output = self.run("spawn");
        output.lines().find_map(|line| line.strip_prefix("pid ")?.parse().ok()).unwrap()
    }

    /// Ends it without reaping, so that it stays as a zombie, and waits until it is one.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        let stat = format!("/proc/{}/stat", self.process_id());
        eventually(|| std::fs::read_to_string(&stat).unwrap().contains(") Z"));
    }

    /// Reaps it: its id is free for others afterwards.
    pub fn reap(&mut self) {
        self.child.wait().unwrap();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for what must happen, for longer than the slowest machine takes.
pub fn eventually(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "it did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}
