//! What Prometheus and OpenTelemetry are told of a real application.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use async_container_supervisor::metrics::{Family, Format, Value, render};
use async_container_supervisor_tests::{Dir, Program, Signal, Supervisor, has_python, proc, wait_for};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, any_value},
    metrics::v1::{NumberDataPoint, ResourceMetrics, metric::Data, number_data_point},
};
use prost::Message as _;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

/// Families that are there in some circumstances only, which these tests do not bring about.
const SOMETIMES: [&str; 7] = [
    "acs_child_next_start_timestamp_seconds",
    "acs_child_kill_timestamp_seconds",
    "acs_memory_increase_limit",
    "acs_memory_pressure_limit_ratio",
    "acs_memory_total_size_limit_bytes",
    "acs_memory_free_size_minimum_bytes",
    "acs_memory_pressure_ratio",
];

/// The body of an answer to `GET /metrics`.
fn scrape(mut stream: impl io::Read + io::Write, accept: &str) -> io::Result<String> {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 OK\r\n") => Ok(body.to_owned()),
        _ => Err(io::Error::other(answer)),
    }
}

fn scrape_unix(path: &Path) -> io::Result<String> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(LIMIT))?;
    scrape(stream, "application/openmetrics-text")
}

/// The types of families by their names.
fn types(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect()
}

/// The value of the first sample that begins so and has all of these labels.
fn value(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let samples = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    let mut samples = samples.filter(|line| labels.iter().all(|label| line.contains(label)));
    samples.next()?.rsplit_once(' ')?.1.parse().ok()
}

/// The table of the page: types by names.
fn documented() -> io::Result<BTreeMap<String, String>> {
    let page = std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md"))?;
    let row = |line: &str| {
        let (name, rest) = line.strip_prefix("| `acs_")?.split_once("` | ")?;
        let (kind, _) = rest.split_once(" | ")?;
        // As OpenMetrics has it, the family of a counter is named without its end.
        let name = if kind == "counter" { name.strip_suffix("_total")? } else { name };
        (!name.contains("NAME")).then(|| (format!("acs_{name}"), kind.to_owned()))
    };
    Ok(page.lines().filter_map(row).collect())
}

fn start(dir: &Dir, metrics: &str) -> io::Result<(Program, Supervisor)> {
    let arguments = ["--listen", "127.0.0.1:0", "--workers", "2", "--metrics", metrics];
    let mut program = dir.example("utilization")?.args(arguments).start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    supervisor.wait_for_workers("the workers", LIMIT, |workers| workers.len() == 2)?;
    Ok((program, supervisor))
}

/// Where the listener of that name is.
fn address(program: &mut Program, name: &str) -> io::Result<String> {
    let line = program.wait_for_stderr(&format!("listening listener=\"{name}\""), LIMIT)?;
    let address = line.split("address=\"").nth(1).and_then(|rest| rest.split('"').next());
    address.map(str::to_owned).ok_or_else(|| io::Error::other(line.clone()))
}

fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let process = proc::process(pid).ok_or_else(|| io::Error::other(format!("there is no process {pid}")))?;
    process.signal(signal).map(drop)
}

/// Reads the text by the parser of the Python client of Prometheus, which is to find all of its values. Nothing is checked, and
/// the reason printed, where there is none.
fn is_understood(text: &str, module: &str) -> io::Result<()> {
    let count = text.lines().filter(|line| !line.starts_with('#')).count();
    let script = "families = list(parse(sys.stdin.read()))\n\
         samples = [sample for family in families for sample in family.samples]\n\
         assert len(samples) == COUNT, len(samples)\n\
         keys = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples]\n\
         assert len(keys) == len(set(keys)), 'a series is there twice'\n";
    let script = script.replace("COUNT", &count.to_string());
    python(&format!("from {module} import text_string_to_metric_families as parse"), &script, text.as_bytes()).map(drop)
}

/// What a script of Python prints that is given this, if what it imports is there.
fn python(import: &str, script: &str, input: &[u8]) -> io::Result<Option<String>> {
    if !has_python(import) {
        return Ok(None);
    }
    let mut command = Command::new("python3");
    command.args(["-c", &format!("import sys\n{import}\n{script}")]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // It may have ended already, without reading.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input));
    let output = child.wait_with_output()?;
    let input = String::from_utf8_lossy(input);
    assert!(output.status.success(), "{}\n{input}", String::from_utf8_lossy(&output.stderr));
    Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
}

#[test]
fn whatever_is_written_is_understood() -> io::Result<()> {
    let histogram = |buckets: &[(f64, u64)], count| Value::Histogram { buckets: buckets.to_vec(), count, sum: 0.5 };
    let mut strange = Family::gauge("9 lives\n", "Of a \"cat\\\"\n# TYPE lie counter\0");
    for (index, text) in
        ["", "a \"quoted\" \\ and a\nnew line", "\0", "\u{feff}ü 🐈", "a\r", "}", "\\n"].iter().enumerate()
    {
        let index = index.to_string();
        strange.push([("na me", *text), ("index", &index), ("na-me", "again")], 1);
    }
    let mut numbers = Family::gauge("numbers", "");
    for (index, number) in [f64::NAN, f64::INFINITY, -f64::INFINITY, -0.0, 5e-324, f64::MAX].into_iter().enumerate() {
        numbers.push([("index", index.to_string().as_str())], number);
    }
    let mut time = Family::histogram("time", "Taken.").unit("seconds");
    time.push([("of", "some")], histogram(&[(0.0, 2), (1e-9, 0), (10.0, 3)], 7));
    time.push([("of", "none")], histogram(&[], 0));
    let families = vec![
        strange,
        numbers,
        time,
        Family::counter("jobs", "That there were.").with(u64::MAX),
        Family::gauge("jobs", "That there are.").with(-3),
        Family::counter("time", "Spent.").unit("seconds").with(0.25),
        Family::counter("", "Without a name.").with(1),
    ];
    for (format, module) in [
        (Format::OpenMetrics, "prometheus_client.openmetrics.parser"),
        (Format::Prometheus, "prometheus_client.parser"),
    ] {
        let text = render(families.clone(), format).map_err(io::Error::other)?;
        assert_eq!(text.matches("\nacs_jobs_total 18446744073709551615\n").count(), 1, "{text}");
        is_understood(&text, module)?;
    }
    Ok(())
}

#[test]
fn everything_that_is_documented_is_told_and_nothing_else() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor) = start(&dir, "unix:metrics.ipc")?;
    let path = dir.path().join("metrics.ipc");
    let mut connection = TcpStream::connect(address(&mut program, "echo")?)?;
    connection.write_all(b"hello\n")?;
    connection.read_exact(&mut [0; 6])?;

    let workers = supervisor.workers()?;
    let is_counted = |text: &str| value(text, "acs_utilization_requests_total", &["service=\"echo\""]) == Some(1.0);
    let text = wait_for("what was counted", LIMIT, || Ok(Some(scrape_unix(&path)?).filter(|text| is_counted(text))))?;
    assert_eq!(value(&text, "acs_utilization_connections_active", &["service=\"echo\""]), Some(1.0), "{text}");
    assert_eq!(value(&text, "acs_utilization_workers", &["service=\"echo\""]), Some(2.0), "{text}");
    assert_eq!(value(&text, "acs_workers", &["service=\"echo\""]), Some(2.0), "{text}");
    assert_eq!(value(&text, "acs_root_ready", &[]), Some(1.0), "{text}");
    let ready = value(&text, "acs_child_time_to_ready_seconds", &["child=\"echo#1\"", "generation=\"1\""]);
    assert!(ready.is_some_and(|seconds| seconds > 0.0 && seconds < 30.0), "{text}");

    // What happens is counted.
    signal(workers[0].pid, Signal::KILL)?;
    let labels = ["child=\"echo#1\"", "service=\"echo\""];
    let exits = |text: &str| labels_of(text, "acs_child_exits_total", &labels).len();
    let text = wait_for("the end of a worker, and the others' checks", LIMIT, || {
        let text = scrape_unix(&path)?;
        let is_restarted = value(&text, "acs_child_restarts_total", &labels) == Some(1.0);
        let is_checked = ["acs_process_size_bytes", "acs_health_round_trip_seconds", "acs_memory_size_bytes"]
            .iter()
            .all(|name| value(&text, name, &["child=\"echo#2\""]).is_some());
        Ok((is_restarted && is_checked && exits(&text) > 0).then_some(text))
    })?;
    assert_eq!(exits(&text), 1, "one cause: {text}");
    assert!(value(&text, "acs_child_last_exit_timestamp_seconds", &labels) > Some(1.7e9), "{text}");

    supervisor.ask("ping", json!({}))?;
    supervisor.ask("no_such_operation", json!({})).expect_err("nobody knows it");
    let text = scrape_unix(&path)?;
    assert!(value(&text, "acs_calls_total", &["operation=\"ping\""]) >= Some(1.0), "{text}");
    assert_eq!(
        value(&text, "acs_calls_ended_total", &["operation=\"other\"", "outcome=\"failed\""]),
        Some(1.0),
        "{text}"
    );
    let (all, within) = ("acs_call_duration_seconds_count", "acs_call_duration_seconds_bucket");
    let pings = value(&text, all, &["operation=\"ping\""]);
    assert!(pings >= Some(1.0) && pings == value(&text, within, &["operation=\"ping\"", "le=\"+Inf\""]), "{text}");

    let (told, documented) = (types(&text), documented()?);
    let counted: BTreeSet<&str> = told.keys().copied().filter(|name| name.starts_with("acs_utilization_")).collect();
    let expected =
        ["connections", "connections_active", "requests", "workers"].map(|name| format!("acs_utilization_{name}"));
    assert!(counted.iter().eq(expected.iter()), "{counted:?}");
    for (name, kind) in told.iter().filter(|(name, _)| !counted.contains(*name)) {
        assert_eq!(documented.get(*name).map(String::as_str), Some(*kind), "{name} in docs/metrics.md");
    }
    for (name, kind) in documented.iter().filter(|(name, _)| !SOMETIMES.contains(&name.as_str())) {
        assert_eq!(told.get(name.as_str()), Some(&kind.as_str()), "{name} of docs/metrics.md");
    }

    is_understood(&text, "prometheus_client.openmetrics.parser")?;
    is_understood(&scrape(UnixStream::connect(&path)?, "*/*")?, "prometheus_client.parser")?;

    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    assert!(!path.exists(), "the socket goes with the application");
    Ok(())
}

/// The samples that begin so and have all of these labels.
fn labels_of<'a>(text: &'a str, name: &str, labels: &[&str]) -> Vec<&'a str> {
    let samples = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')));
    samples.filter(|line| labels.iter().all(|label| line.contains(label))).collect()
}

/// How a number is told that is in `status`, `children` or `ping`: by a metric, or not, for a reason.
enum Told {
    As(&'static str),
    Not(&'static str),
}

const AN_ID: Told = Told::Not("an id counts and measures nothing; where it is needed it is a label");
const BY_SERVICE: Told =
    Told::Not("the sums by service are told: for each worker it would be as many series as there are workers");
const OF_ALL: Told = Told::Not("it is the same for all, and told once");
const OF_ITSELF: Told = Told::Not("it is what a worker says of itself, which may be anything");

/// The numbers, and what is true or false, by where they are.
const NUMBERS: &[(&str, Told)] = &[
    ("ping.process_id", AN_ID),
    ("ping.uptime", Told::As("acs_supervisor_uptime_seconds")),
    ("children.process_id", AN_ID),
    ("children.generation", Told::As("acs_root_generation")),
    ("children.reloads", Told::As("acs_root_reloads")),
    ("children.reloading", Told::As("acs_root_reloading")),
    ("children.reload_error", Told::As("acs_root_reload_failed")),
    ("children.ready", Told::As("acs_root_ready")),
    ("children.children[].instance", AN_ID),
    ("children.children[].generation", AN_ID),
    ("children.children[].process_id", AN_ID),
    ("children.children[].restarts", Told::As("acs_child_restarts")),
    ("children.children[].exits.*", Told::As("acs_child_exits")),
    ("children.children[].last_exit", Told::Not("it is for people; how often for which cause is told")),
    ("children.children[].last_exit_at", Told::As("acs_child_last_exit_timestamp_seconds")),
    ("children.children[].last_exit_cause", Told::As("acs_child_exits")),
    ("children.children[].last_incident", Told::Not("it is the name of a directory")),
    ("children.children[].condemned", Told::Not("it is for people")),
    ("children.children[].kill_at", Told::As("acs_child_kill_timestamp_seconds")),
    ("children.children[].time_to_ready", Told::As("acs_child_time_to_ready_seconds")),
    ("children.children[].failures", Told::As("acs_child_failures")),
    ("children.children[].next_start", Told::As("acs_child_next_start_timestamp_seconds")),
    ("status.connections[].process_id", AN_ID),
    ("status.connections[].state.process_id", OF_ITSELF),
    ("status.connections[].state.instance", OF_ITSELF),
    ("status.memory.maximum_size_limit", Told::As("acs_memory_size_limit_bytes")),
    ("status.memory.threshold_size", Told::As("acs_memory_threshold_size_bytes")),
    ("status.memory.increase_limit", Told::As("acs_memory_increase_limit")),
    ("status.memory.total_size", Told::As("acs_memory_total_size_bytes")),
    ("status.memory.total_size_limit", Told::As("acs_memory_total_size_limit_bytes")),
    ("status.memory.free_size_minimum", Told::As("acs_memory_free_size_minimum_bytes")),
    ("status.memory.pressure_limit", Told::As("acs_memory_pressure_limit_ratio")),
    ("status.memory.pressure", Told::As("acs_memory_pressure_ratio")),
    ("status.memory.pressure.some", Told::As("acs_memory_pressure_ratio")),
    ("status.memory.pressure.full", Told::As("acs_memory_pressure_ratio")),
    ("status.memory.left_alone", Told::As("acs_memory_all_left_alone_seconds")),
    ("status.memory.host.total_size", Told::As("acs_memory_host_size_bytes")),
    ("status.memory.host.used_size", Told::As("acs_memory_host_used_size_bytes")),
    ("status.memory.host.free_size", Told::As("acs_memory_host_free_size_bytes")),
    ("status.memory.host.reclaimable_size", Told::As("acs_memory_host_reclaimable_size_bytes")),
    ("status.memory.host.available_size", Told::As("acs_memory_host_available_size_bytes")),
    ("status.memory.host.swap_total_size", Told::As("acs_memory_host_swap_size_bytes")),
    ("status.memory.host.swap_used_size", Told::As("acs_memory_host_swap_used_size_bytes")),
    ("status.memory.processes[].process_id", AN_ID),
    ("status.memory.processes[].sample_count", Told::As("acs_memory_samples")),
    ("status.memory.processes[].current_size", Told::As("acs_memory_size_bytes")),
    ("status.memory.processes[].current_resident_size", Told::As("acs_memory_resident_size_bytes")),
    ("status.memory.processes[].current_shared_size", Told::As("acs_memory_shared_size_bytes")),
    ("status.memory.processes[].current_private_size", Told::As("acs_memory_private_size_bytes")),
    ("status.memory.processes[].maximum_size", Told::As("acs_memory_maximum_size_bytes")),
    ("status.memory.processes[].maximum_size_limit", OF_ALL),
    ("status.memory.processes[].threshold_size", OF_ALL),
    ("status.memory.processes[].increase_count", Told::As("acs_memory_increases")),
    ("status.memory.processes[].increase_limit", OF_ALL),
    ("status.memory.processes[].restarting", Told::As("acs_memory_restarting")),
    ("status.memory.processes[].left_alone", Told::As("acs_memory_left_alone_seconds")),
    ("status.process.root_process_id", AN_ID),
    ("status.process.processes[].process_id", AN_ID),
    ("status.process.processes[].parent_process_id", AN_ID),
    ("status.process.processes[].process_group_id", AN_ID),
    ("status.process.processes[].processor_utilization", Told::As("acs_process_utilization_ratio")),
    ("status.process.processes[].total_size", Told::As("acs_process_size_bytes")),
    ("status.process.processes[].virtual_size", Told::As("acs_process_virtual_size_bytes")),
    ("status.process.processes[].resident_size", Told::As("acs_process_resident_size_bytes")),
    ("status.process.processes[].processor_time", Told::As("acs_process_cpu_seconds")),
    ("status.process.processes[].children_processor_time", Told::As("acs_process_children_cpu_seconds")),
    ("status.process.processes[].elapsed_time", Told::As("acs_process_elapsed_seconds")),
    ("status.process.processes[].threads", Told::As("acs_process_threads")),
    ("status.process.processes[].open_files", Told::As("acs_process_open_files")),
    ("status.process.processes[].voluntary_switches", Told::As("acs_process_context_switches")),
    ("status.process.processes[].involuntary_switches", Told::As("acs_process_context_switches")),
    ("status.process.processes[].minor_faults", Told::As("acs_process_page_faults")),
    ("status.process.processes[].major_faults", Told::As("acs_process_page_faults")),
    ("status.process.processes[].memory.map_count", Told::As("acs_process_mappings")),
    ("status.process.processes[].memory.resident_size", Told::As("acs_process_resident_size_bytes")),
    ("status.process.processes[].memory.proportional_size", Told::As("acs_process_size_bytes")),
    ("status.process.processes[].memory.proportional_file_size", Told::As("acs_process_proportional_file_size_bytes")),
    ("status.process.processes[].memory.private_size", Told::As("acs_process_private_size_bytes")),
    ("status.process.processes[].memory.shared_size", Told::As("acs_process_shared_size_bytes")),
    ("status.process.processes[].memory.anonymous_size", Told::As("acs_process_anonymous_size_bytes")),
    ("status.process.processes[].memory.swap_size", Told::As("acs_process_swap_size_bytes")),
    ("status.process.processes[].memory.private_clean_size", Told::As("acs_process_private_clean_size_bytes")),
    ("status.process.processes[].memory.private_dirty_size", Told::As("acs_process_private_dirty_size_bytes")),
    ("status.process.processes[].memory.shared_clean_size", Told::As("acs_process_shared_clean_size_bytes")),
    ("status.process.processes[].memory.shared_dirty_size", Told::As("acs_process_shared_dirty_size_bytes")),
    ("status.process.processes[].memory.referenced_size", Told::As("acs_process_referenced_size_bytes")),
    ("status.process.processes[].memory.proportional_swap_size", Told::As("acs_process_proportional_swap_size_bytes")),
    ("status.health.warn_after", Told::As("acs_health_warn_after_seconds")),
    ("status.health.dump_after", Told::As("acs_health_dump_after_seconds")),
    ("status.health.restart_after", Told::As("acs_health_restart_after_seconds")),
    ("status.health.supervisor_lag", Told::As("acs_health_supervisor_lag_seconds")),
    ("status.health.workers[].process_id", AN_ID),
    ("status.health.workers[].round_trip", Told::As("acs_health_round_trip_seconds")),
    ("status.health.workers[].maximum_round_trip", Told::As("acs_health_maximum_round_trip_seconds")),
    ("status.health.workers[].answers", Told::As("acs_health_answers")),
    ("status.health.workers[].silent_for", Told::As("acs_health_silent_seconds")),
    ("status.utilization.services.*.worker_count", Told::As("acs_utilization_workers")),
    ("status.utilization.services.*.metrics.*", Told::As("acs_utilization_requests")),
    ("status.utilization.workers[].process_id", AN_ID),
    ("status.utilization.workers[].metrics.*", BY_SERVICE),
];

/// What has keys of its own.
const MAPS: [&str; 4] = [
    "children.children[].exits",
    "status.utilization.services",
    "status.utilization.services.*.metrics",
    "status.utilization.workers[].metrics",
];

/// Where there are numbers, and whether they are there now. What belongs to the answer of a call is none of them.
fn numbers(value: &serde_json::Value, path: &str, found: &mut BTreeMap<String, bool>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields.iter().filter(|(key, _)| !["id", "finished"].contains(&key.as_str())) {
                let key = if MAPS.contains(&path) { "*" } else { key };
                numbers(value, &format!("{path}.{key}"), found);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| numbers(item, &format!("{path}[]"), found)),
        serde_json::Value::String(_) => {}
        number => *found.entry(path.to_owned()).or_default() |= !number.is_null(),
    }
}

#[test]
fn every_number_that_is_shown_is_a_metric_or_there_is_a_reason_why_not() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor) = start(&dir, "unix:metrics.ipc")?;
    let path = dir.path().join("metrics.ipc");
    // One that is killed is not to be the only one that has counted.
    let killed = supervisor.workers()?[0].pid;
    signal(killed, Signal::KILL)?;
    supervisor.wait_for_workers("another worker", LIMIT, |workers| {
        workers.len() == 2 && workers.iter().all(|worker| worker.pid != killed)
    })?;
    let mut connection = TcpStream::connect(address(&mut program, "echo")?)?;
    connection.write_all(b"hello\n")?;
    connection.read_exact(&mut [0; 6])?;

    let (found, text) = wait_for("what all of them know", LIMIT, || {
        let mut found = BTreeMap::new();
        for response in supervisor.call("status", json!({}))? {
            numbers(&response, "status", &mut found);
        }
        for operation in ["children", "ping"] {
            numbers(&supervisor.ask(operation, json!({}))?, operation, &mut found);
        }
        let is_there = |path: &&str| found.get(*path) == Some(&true);
        let all = [
            "children.children[].exits.*",
            "status.utilization.services.*.metrics.*",
            "status.utilization.workers[].metrics.*",
            "status.health.workers[].round_trip",
            "status.process.processes[].memory.map_count",
            "status.memory.host.total_size",
        ];
        Ok(if all.iter().all(is_there) { Some((found, scrape_unix(&path)?)) } else { None })
    })?;

    let told = types(&text);
    let is_right = |(number, is_there): &(&String, &bool)| match NUMBERS.iter().find(|(path, _)| path == number) {
        None => false,
        Some((_, Told::As(name))) => !**is_there || told.contains_key(name),
        Some((_, Told::Not(reason))) => !reason.is_empty(),
    };
    let wrong: Vec<_> = found.iter().filter(|number| !is_right(number)).collect();
    assert!(wrong.is_empty(), "shown, but it is not said how that is told, or it is not told so: {wrong:?}");
    // What is shown only at times is listed as well, but nothing that does not exist.
    for name in NUMBERS.iter().filter_map(|(_, how)| if let Told::As(name) = how { Some(*name) } else { None }) {
        assert!(told.contains_key(name) || SOMETIMES.contains(&name), "there is no metric {name}");
    }
    for (name, labels, shown) in
        [("acs_health_restart_after_seconds", [""; 1], 30.0), ("acs_health_warn_after_seconds", [""; 1], 1.0)]
    {
        assert_eq!(value(&text, name, &labels), Some(shown), "{name}");
    }
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn a_tcp_address_outlives_the_supervisor() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor) = start(&dir, "127.0.0.1:0")?;
    let address = address(&mut program, "metrics")?;
    let text = scrape(TcpStream::connect(&address)?, "*/*")?;
    assert_eq!(value(&text, "acs_child_restarts_total", &["child=\"supervisor#1\""]), Some(0.0), "{text}");

    let process_id = supervisor.ask("ping", json!({}))?["process_id"].as_u64().unwrap_or_default();
    signal(process_id as u32, Signal::KILL)?;
    // Connections are never refused, but those that were made to the one that is gone have no answer.
    let text = wait_for("the next supervisor", LIMIT, || {
        let stream = TcpStream::connect(&address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(scrape(stream, "*/*")
            .ok()
            .filter(|text| value(text, "acs_child_restarts_total", &["child=\"supervisor#1\""]) == Some(1.0)))
    })?;
    assert!(value(&text, "acs_supervisor_uptime_seconds", &[]).is_some(), "{text}");

    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

/// Somebody who takes numbers by OTLP, and all of them that have come.
struct Receiver {
    endpoint: String,
    received: mpsc::Receiver<ExportMetricsServiceRequest>,
}

impl Receiver {
    /// Its thread ends with the test.
    fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let (sender, received) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // One that ends in the midst of a push is a supervisor that was killed.
                if let Ok(request) = take(stream)
                    && sender.send(request).is_err()
                {
                    return;
                }
            }
        });
        Ok(Self { endpoint, received })
    }

    /// The next numbers for which there is something.
    fn wait<T>(&self, what: &str, mut check: impl FnMut(&ResourceMetrics) -> io::Result<Option<T>>) -> io::Result<T> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let request = self.received.recv_timeout(left).map_err(|_| io::Error::other(format!("no {what}")))?;
            if let Some(found) = check(&request.resource_metrics[0])? {
                return Ok(found);
            }
        }
    }
}

/// One request over HTTP, answered.
fn take(stream: TcpStream) -> io::Result<ExportMetricsServiceRequest> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    assert_eq!(line, "POST /v1/metrics HTTP/1.1\r\n");
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().map_err(io::Error::other)?;
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    ExportMetricsServiceRequest::decode(body.as_slice()).map_err(io::Error::other)
}

/// Names of what was pushed.
fn pushed(metrics: &ResourceMetrics) -> BTreeSet<&str> {
    metrics.scope_metrics[0].metrics.iter().map(|metric| metric.name.as_str()).collect()
}

/// Since when a counter has counted, and its value, of the first series that has this attribute.
fn counted(metrics: &ResourceMetrics, name: &str, of: Option<(&str, &str)>) -> Option<(u64, i64)> {
    let metric = metrics.scope_metrics[0].metrics.iter().find(|metric| metric.name == name)?;
    let Some(Data::Sum(sum)) = &metric.data else { return None };
    let is_wanted = |point: &&NumberDataPoint| {
        of.is_none_or(|(key, value)| {
            let value = any_value::Value::StringValue(value.to_owned());
            let is_it = |found: &AnyValue| found.value.as_ref() == Some(&value);
            point.attributes.iter().any(|found| found.key == key && found.value.as_ref().is_some_and(is_it))
        })
    };
    let point = sum.data_points.iter().find(is_wanted)?;
    match point.value {
        Some(number_data_point::Value::AsInt(value)) => Some((point.start_time_unix_nano, value)),
        _ => None,
    }
}

#[test]
fn what_is_pushed_is_what_is_told() -> io::Result<()> {
    let dir = Dir::new()?;
    let receiver = Receiver::start()?;
    let arguments = ["--listen", "127.0.0.1:0", "--metrics", "unix:metrics.ipc", "--otlp", &receiver.endpoint];
    let mut program = dir.example("utilization")?.args(arguments).env("OTEL_METRIC_EXPORT_INTERVAL", "200").start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    supervisor.wait_for_workers("the workers", LIMIT, |workers| workers.len() == 2)?;
    let mut connection = TcpStream::connect(address(&mut program, "echo")?)?;
    connection.write_all(b"hello\n")?;
    connection.read_exact(&mut [0; 6])?;
    let path = dir.path().join("metrics.ipc");
    let needed = ["acs_process_cpu_seconds_total", "acs_health_answers_total", "acs_utilization_requests_total"];
    receiver.wait("push of all", |metrics| {
        let pushed = pushed(metrics);
        let text = scrape(UnixStream::connect(&path)?, "*/*")?;
        let told: BTreeSet<&str> = types(&text).into_keys().collect();
        let is_complete = needed.iter().all(|name| told.contains(name));
        if !is_complete || told != pushed {
            return Ok(None);
        }
        // So does whoever reads it by another implementation.
        let request = ExportMetricsServiceRequest { resource_metrics: vec![metrics.clone()] };
        let import =
            "from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest";
        let script = "request = ExportMetricsServiceRequest.FromString(sys.stdin.buffer.read())\n\
            metrics = request.resource_metrics[0].scope_metrics[0].metrics\n\
            assert all(metric.WhichOneof('data') for metric in metrics)\n\
            print(*sorted(metric.name for metric in metrics), sep='\\n')";
        if let Some(names) = python(import, script, &request.encode_to_vec())? {
            assert!(names.lines().eq(pushed), "{names}");
        }
        Ok(Some(()))
    })?;

    // What the root counts goes on where the supervisor begins anew.
    let restarts = "acs_child_restarts_total";
    let of = Some(("child", "supervisor#1"));
    let process_id = supervisor.ask("ping", json!({}))?["process_id"].as_u64().unwrap_or_default();
    let (before, root) = receiver.wait("numbers of the first supervisor", |metrics| {
        let calls = counted(metrics, "acs_calls_total", Some(("operation", "ping")));
        Ok(calls.zip(counted(metrics, restarts, of)).map(|(calls, restarts)| (calls.0, restarts)))
    })?;
    assert_eq!(root.1, 0);
    let requests =
        |metrics: &ResourceMetrics| counted(metrics, "acs_utilization_requests_total", Some(("service", "echo")));
    let counted_before = receiver.wait("a request", |metrics| Ok(requests(metrics).filter(|(_, count)| *count > 0)))?;
    assert_eq!(counted_before, (before, 1));
    let counted_by_worker =
        |metrics: &ResourceMetrics| counted(metrics, "acs_process_page_faults_total", Some(("child", "echo#1")));
    let worker = receiver.wait("what a worker used", |metrics| Ok(counted_by_worker(metrics)))?;
    signal(process_id as u32, Signal::KILL)?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let (after, root_after) = receiver.wait("numbers of the second supervisor", |metrics| {
        supervisor.ask("ping", json!({}))?;
        let calls = counted(metrics, "acs_calls_total", Some(("operation", "ping")));
        let restarts = counted(metrics, restarts, of).filter(|restarts| restarts.1 > 0);
        Ok(calls.zip(restarts).map(|(calls, restarts)| (calls.0, restarts)))
    })?;
    assert!(after > before, "it counts calls anew: {before}, {after}");
    // Workers count on, but what they had counted was told of already, by another start.
    let begun = receiver.wait("what workers count", |metrics| Ok(requests(metrics)))?;
    assert_eq!(begun, (after, 0));
    connection.write_all(b"hello\n")?;
    let more = receiver.wait("another request", |metrics| Ok(requests(metrics).filter(|(_, count)| *count > 0)))?;
    assert_eq!(more, (after, 1));
    // What goes on has the same start as ever, or it would be counted once more: that of the root, and of workers.
    assert!(root.0 == root_after.0 && root.0 <= before, "{root:?}, {root_after:?}");
    let of_worker = receiver.wait("what a worker used", |metrics| Ok(counted_by_worker(metrics)))?;
    assert_eq!(of_worker.0, worker.0, "{worker:?}, {of_worker:?}");
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn all_numbers_are_pushed_at_the_end() -> io::Result<()> {
    let dir = Dir::new()?;
    let receiver = Receiver::start()?;
    let mut program =
        dir.example("utilization")?.args(["--listen", "127.0.0.1:0", "--otlp", &receiver.endpoint]).start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    supervisor.wait_for_workers("the workers", LIMIT, |workers| workers.len() == 2)?;
    supervisor.ask("ping", json!({}))?;
    wait_for("the first check of memory", LIMIT, || {
        let responses = supervisor.call("status", json!({}))?;
        Ok(responses.iter().any(|response| response["memory"]["host"].is_object()).then_some(()))
    })?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    receiver.wait("last push", |metrics| {
        // Of monitors, too, which end with the supervisor.
        assert!(pushed(metrics).contains("acs_monitor_up"), "{metrics:?}");
        assert!(pushed(metrics).contains("acs_memory_host_size_bytes"), "{metrics:?}");
        assert!(counted(metrics, "acs_calls_total", Some(("operation", "ping"))).is_some(), "{metrics:?}");
        let resource = metrics.resource.as_ref().into_iter().flat_map(|resource| &resource.attributes);
        let name = resource.filter(|attribute| attribute.key == "service.name").find_map(|name| name.value.clone());
        assert_eq!(name.and_then(|name| name.value), Some(any_value::Value::StringValue("utilization".to_owned())));
        Ok(Some(()))
    })
}

#[test]
fn an_address_that_nobody_can_ask_at_is_refused_at_once() -> io::Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let in_use = taken.local_addr()?.to_string();
    let too_long = format!("unix:{}", "x".repeat(120));
    for (address, message) in [
        (in_use.as_str(), format!("another program listens at {in_use}: stop it")),
        ("192.0.2.1:9464", "192.0.2.1:9464 is no address of this machine: choose one that is".to_owned()),
        ("no-such-host.invalid:9464", "the host of no-such-host.invalid:9464 cannot be found".to_owned()),
        ("9464", "\"9464\" is no address to listen at: use HOST:PORT".to_owned()),
        ("unix:", "\"unix:\" is no address to listen at: use HOST:PORT".to_owned()),
        ("unix:none/metrics.ipc", "directory none for the socket does not exist: create it first".to_owned()),
        (&too_long, "has 120 bytes, but the limit is 107: use a shorter or a relative path".to_owned()),
        ("udp:127.0.0.1:9464", "nobody can ask for metrics at udp:127.0.0.1:9464: use HOST:PORT".to_owned()),
    ] {
        let dir = Dir::new()?;
        let mut program =
            dir.example("utilization")?.args(["--listen", "127.0.0.1:0", "--metrics", address]).start()?;
        let code = program.wait(LIMIT)?.code();
        let stderr = program.stderr();
        assert!(code.is_some_and(|code| code != 0) && stderr.contains(&message), "{address}: {code:?}, {stderr}");
    }
    Ok(())
}

#[test]
fn an_endpoint_that_is_none_is_refused_at_once() -> io::Result<()> {
    for (endpoint, message) in [
        ("127.0.0.1:4318", "it must be like http://127.0.0.1:4318"),
        ("https://otlp.example.com", "push to an OpenTelemetry Collector at http://127.0.0.1:4318"),
    ] {
        let dir = Dir::new()?;
        let mut program = dir.example("utilization")?.args(["--listen", "127.0.0.1:0", "--otlp", endpoint]).start()?;
        assert_eq!(program.wait(LIMIT)?.code(), Some(78), "{}", program.stderr());
        let stderr = program.stderr();
        assert!(stderr.contains(&format!("`{endpoint}`")) && stderr.contains(message), "{stderr}");
    }
    Ok(())
}
