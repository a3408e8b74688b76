//! Another program as a child that takes its time to start, and is replaced without a gap: `cargo run --example exec_child`
//!
//! The script stands for any program that says by itself when it is ready, here by a line of JSON to the pipe that
//! `NOTIFY_PIPE` names. Send SIGHUP to the program (`kill -HUP`, with the process id that it prints): a second script starts
//! beside the first, which is asked to end only when the new one is ready.

use std::process::ExitCode;
use std::time::Duration;

use async_container_supervisor::{Application, Command, Readiness, Service};

const SCRIPT: &str = r#"
trap 'echo "$$ ends"; exit 0' INT TERM
echo "$$ is getting ready"
sleep 0.5
echo '{"ready":true,"status":"serving"}' > /proc/self/fd/$NOTIFY_PIPE
echo "$$ is ready"
while :; do sleep 0.1; done
"#;

fn main() -> ExitCode {
    let script = Command::new("sh").arguments(["-c", SCRIPT]);
    Application::new("exec_child")
        .service(
            Service::command("script", script)
                .count(1)
                .readiness(Readiness::Notify)
                .startup_timeout(Duration::from_secs(10)),
        )
        .run()
}
