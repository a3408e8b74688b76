//! A process that counts what it is told to: this test binary, started once more.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use async_container_utilization::{Registry, View, metric, registry};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const VARIABLE: &str = "UTILIZATION_TEST_HELPER";

/// The other side: carries out commands until its standard input ends. As an ordinary test it does nothing.
#[test]
fn helper() {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let answer = match line.split_once(' ').unwrap_or((&line, "")) {
            ("increment", name) => {
                metric(name).increment();
                metric(name).value().to_string()
            }
            ("hammer", name) => {
                let metric = metric(name);
                std::thread::spawn(move || {
                    loop {
                        metric.increment();
                    }
                });
                String::new()
            }
            ("share", _) => match registry().share() {
                Ok(shared) => shared.descriptor().to_string(),
                Err(error) => error.to_string(),
            },
            ("no_files", _) => {
                setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..getrlimit(Resource::Nofile) }).unwrap();
                String::new()
            }
            ("file_size", size) => {
                let current = Some(size.parse().unwrap());
                setrlimit(Resource::Fsize, Rlimit { current, ..getrlimit(Resource::Fsize) }).unwrap();
                String::new()
            }
            ("segments", number) => {
                let registries = (0..number.parse().unwrap()).map(|_| Registry::new());
                registries.for_each(|registry| registry.metric("requests_total").increment());
                String::new()
            }
            (command, _) => panic!("unknown command: {command}"),
        };
        // The harness may have begun a line of its own.
        println!("\nanswer {answer}");
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
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "helper::helper", "--nocapture", "--test-threads=1"])
            .env(VARIABLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdin, stdout }
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    pub fn run(&mut self, command: &str) -> String {
        writeln!(self.stdin.as_mut().unwrap(), "{command}").unwrap();
        loop {
            let mut line = String::new();
            assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "the helper ended");
            if let Some(answer) = line.trim_end().strip_prefix("answer") {
                return answer.trim().to_owned();
            }
        }
    }

    pub fn view(&mut self) -> View {
        let descriptor = self.run("share").parse().unwrap();
        View::open(self.process_id(), descriptor).unwrap()
    }

    /// Kills and reaps it.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
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
