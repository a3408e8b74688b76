use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Child, Command},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    application::{Application, Ended, State, eventually},
    diagnosed,
};

fn start() -> Application {
    Application::start(State::default())
}

/// What is in the application's directory beside its socket.
fn files(application: &Application) -> Vec<String> {
    let entries = fs::read_dir(application.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != "supervisor.ipc").collect();
    names.sort();
    names
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn reports_are_printed() {
    let application = start();
    assert_eq!(application.acs(["thread-dump", "web#1"]).text(), "thread_dump as text\nmain;work 7\n");
    assert_eq!(application.acs(["scheduler-dump", "aaaa"]).text(), "scheduler_dump as text\nmain;work 7\n");
    let sample = application.acs(["memory-sample", "web#1", "--duration", "20ms"]);
    assert_eq!(sample.text(), "memory_sample as text\nmain;work 7\n");
    let profile = application.acs(["cpu-profile", "web#1", "--duration", "1", "--frequency", "49"]);
    assert_eq!(profile.text(), "cpu_profile as folded\nmain;work 7\n");
    assert_eq!(
        application.forwarded(),
        [
            json!({"do": "thread_dump", "format": "text"}),
            json!({"do": "scheduler_dump", "format": "text"}),
            json!({"do": "memory_sample", "duration": 0.02, "format": "text"}),
            json!({"do": "cpu_profile", "duration": 1.0, "frequency": 49, "format": "folded"}),
        ]
    );
}

#[test]
fn a_memory_sample_records_as_much_as_is_asked_for() {
    let application = start();
    application.acs(["memory-sample", "web#1", "--duration", "1", "--full"]).text();
    application.acs(["memory-sample", "web#1", "--duration", "1", "--rate", "4096"]).text();
    assert_eq!(
        application.forwarded(),
        [
            json!({"do": "memory_sample", "duration": 1.0, "mode": "full", "format": "text"}),
            json!({"do": "memory_sample", "duration": 1.0, "rate": 4096, "format": "text"}),
        ]
    );
}

#[test]
fn defaults_are_as_documented() {
    let application = start();
    application.acs(["cpu-profile", "web#1"]).text();
    application.acs(["memory-sample", "web#1"]).text();
    let calls = application.forwarded();
    assert_eq!((&calls[0]["duration"], &calls[0]["frequency"]), (&json!(10.0), &json!(99)));
    assert_eq!(calls[1]["duration"], json!(30.0));
}

#[test]
fn a_report_as_json_is_one_document() {
    let application = start();
    let ended = application.acs(["--format", "json", "memory-sample", "web#1", "--duration", "1"]);
    let document: Value = serde_json::from_str(ended.text()).unwrap();
    assert_eq!(document, json!({"operation": "memory_sample", "total": {"bytes": 5}}));
}

#[test]
fn the_name_of_a_file_chooses_the_form() {
    let application = start();
    for (name, form) in
        [("a.json", "json"), ("a.txt", "text"), ("a.pb.gz", "pprof"), ("a.folded", "folded"), ("a.svg", "svg")]
    {
        let ended = application.acs(["cpu-profile", "web#1", "--duration", "1", "--output", name]);
        assert!(ended.text().starts_with(&format!("wrote {name}: ")), "{}", ended.stdout);
        assert_eq!(application.forwarded().last().unwrap()["format"], form);
        let path = application.path().join(name);
        let written = fs::read(&path).unwrap();
        match form {
            "pprof" => assert_eq!(written, diagnosed::profile()),
            "json" => assert_eq!(serde_json::from_slice::<Value>(&written).unwrap()["operation"], "cpu_profile"),
            _ => assert_eq!(written, format!("cpu_profile as {form}\nmain;work 7\n").into_bytes()),
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // One that says nothing gets what people, or programs, expect.
    application.acs(["cpu-profile", "web#1", "-o", "plain"]).text();
    assert_eq!(application.forwarded().last().unwrap()["format"], "folded");
    let document = application.json(["thread-dump", "web#1", "-o", "plain"]);
    assert_eq!(document, json!({"output": "plain", "form": "text", "size": 32}));
}

#[test]
fn a_form_that_there_is_not_is_refused_before_anything_is_asked() {
    let application = start();
    let ended = application.acs(["thread-dump", "web#1", "--output", "threads.svg"]);
    assert_eq!(ended.error(2), "a thread-dump has no form .svg: let the name end with .txt, .json\n");
    let ended = application.acs(["thread-dump", "web#1", "--output", "no/such/directory"]);
    assert!(ended.error(1).starts_with("cannot write to no/such/directory: No such file"), "{}", ended.stderr);
    application.acs(["memory-sample", "web#1", "--duration", "0"]).error(2);
    application.acs(["memory-sample", "web#1", "--rate", "0"]).error(2);
    application.acs(["memory-sample", "web#1", "--full", "--rate", "4096"]).error(2);
    application.acs(["cpu-profile", "web#1", "--frequency", "0"]).error(2);
    application.acs(["thread-dump", "web#1", "-o", "a", "--remote", "b"]).error(2);
    assert_eq!(application.forwarded(), [json!(null); 0]);
    assert_eq!(files(&application), [""; 0]);
}

#[test]
fn a_dump_is_streamed_into_its_file() {
    let application = start();
    fs::write(application.path().join("heap.pb.gz"), "of yesterday").unwrap();
    let ended = application.acs(["memory-dump", "web#1", "--output", "heap.pb.gz"]);
    assert_eq!(ended.text(), "wrote heap.pb.gz: 320.0 KiB\n");
    let expected: Vec<u8> = (0..diagnosed::CHUNKS).flat_map(diagnosed::piece).collect();
    assert!(fs::read(application.path().join("heap.pb.gz")).unwrap() == expected);
    assert_eq!(files(&application), ["heap.pb.gz"]);
    // Into a pipe, as it is.
    let output = application.command(["memory-dump", "web#1"]).output().unwrap();
    assert!(output.stdout == expected && output.stderr.is_empty());
}

#[test]
fn the_worker_writes_where_it_is_told_to() {
    let application = start();
    let ended = application.acs(["memory-dump", "web#1", "--remote", "heap.svg"]);
    assert_eq!(ended.text(), "web#1 wrote /worker/heap.svg\n");
    assert_eq!(application.forwarded(), [json!({"do": "memory_dump", "path": "heap.svg", "format": "svg"})]);
    let document = application.json(["thread-dump", "web#1", "--remote", "x"]);
    assert_eq!(document["path"], "/worker/x");
    assert_eq!(files(&application), [""; 0]);
}

#[test]
fn an_allocator_profile_is_started_and_stopped() {
    let application = start();
    let start = Instant::now();
    let ended = application.acs(["allocator-profile", "web#1", "--duration", "300ms"]);
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(ended.text(), "allocator_profile_stop as text\nmain;work 7\n");
    assert_eq!(
        application.forwarded(),
        [
            json!({"do": "allocator_profile_start", "limit": 10.3}),
            json!({"do": "allocator_profile_stop", "format": "text"}),
        ],
        "which ends soon after its time if nobody ends it"
    );
}

#[test]
fn an_allocator_profile_that_is_interrupted_is_stopped_nevertheless() {
    let application = start();
    let child = application.command(["allocator-profile", "web#1", "--duration", "1h"]).spawn().unwrap();
    eventually(|| application.forwarded().len() == 1);
    signal(&child, "-INT");
    assert_eq!(Ended::new(child.wait_with_output().unwrap()).error(130), "interrupted\n");
    assert_eq!(
        application.forwarded(),
        [json!({"do": "allocator_profile_start", "limit": 3600.0}), json!({"do": "allocator_profile_stop"})]
    );
}

#[test]
fn interrupted_the_worker_is_told_and_no_file_is_left() {
    for (name, status) in [("-INT", 130), ("-TERM", 143)] {
        let application = start();
        fs::write(application.path().join("old.txt"), "old").unwrap();
        let child = application.command(["memory-sample", "web#2", "--output", "old.txt"]).spawn().unwrap();
        eventually(|| application.hanging() == 1);
        signal(&child, name);
        Ended::new(child.wait_with_output().unwrap()).error(status);
        eventually(|| application.cancelled() == 1);
        assert_eq!(files(&application), ["old.txt"]);
        assert_eq!(fs::read(application.path().join("old.txt")).unwrap(), b"old");
    }
}

#[test]
fn too_late_says_what_to_do() {
    let application = start();
    let ended = application.acs(["--timeout", "200ms", "thread-dump", "web#2", "--output", "x"]);
    assert_eq!(
        ended.error(124),
        "timed out after 0.2 s: web#2 has not sent its report: it may be busy or blocked (see acs thread-dump \
         --external), or use --timeout to wait longer\n"
    );
    eventually(|| application.cancelled() == 1);
    assert_eq!(files(&application), [""; 0]);
}

#[test]
fn a_worker_that_cannot_says_why() {
    let application = start();
    let ended = application.acs(["thread-dump", "job", "--output", "x"]);
    assert_eq!(ended.error(1), "NotSupported: threads are not readable here: build for Linux\n");
    let ended = application.acs(["memory-sample", "job"]);
    let error = ended.error(1);
    assert!(error.starts_with("UnknownOperation: ") && error.contains("feature `diagnostics`"), "{error}");
    let ended = application.acs(["memory-sample", "web"]);
    assert!(ended.error(1).starts_with("AmbiguousWorker: "));
    assert_eq!(files(&application), [""; 0]);
}

#[test]
fn a_full_disk_is_told() {
    let application = start();
    let ended = application.acs(["memory-dump", "web#1", "--output", "/dev/full"]);
    assert!(ended.error(1).starts_with("cannot write to /dev/full: No space left on device"), "{}", ended.stderr);
}

#[test]
fn there_is_no_progress_where_there_is_no_terminal() {
    let application = start();
    let ended = application.acs(["memory-sample", "web#1", "--duration", "1"]);
    assert_eq!(ended.stderr, "");
}
