//! The command line, as far as it can be understood without asking a supervisor.

use std::{path::PathBuf, time::Duration};

use async_container_protocol::endpoint::DEFAULT_SOCKET;
use async_container_supervisor_client::{Kind, Records};
use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use serde_json::{Map, Value};

/// Where the socket is, if `--socket` does not say.
const SOCKET_VARIABLE: &str = "ACS_SOCKET";

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_WAIT_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a report may take to be made and sent, beyond the time that it is about: names have to be found for what may be
/// very many addresses.
const DEFAULT_REPORT_TIMEOUT: Duration = Duration::from_secs(60);

/// Names that the protocol keeps for itself, and that no parameter can have.
const RESERVED: &[&str] = &["id", "do", "finished", "failed", "error", "cancel"];

const EXIT_STATUS: &str = "\
Exit status: 0 done, 1 the operation failed, 2 usage, 3 no supervisor at the socket, 124 timed out, 130 interrupted.";

const WORKER: &str = "\
WORKER is a connection id or the beginning of one, pid:1234, a name, or name#2 for its second instance.";

const CHILD: &str = "\
WORKER is a connection id or the beginning of one, pid:1234, a name, or name#2 for its second instance. A child that is no \
worker is named as acs status names it, or by pid:1234.";

/// Asks a running supervisor, and tells it what to do.
#[derive(Debug, Parser)]
#[command(name = "acs", version, after_help = EXIT_STATUS, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    /// The supervisor's socket [default: $ACS_SOCKET, else supervisor.ipc].
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// For people, or one JSON document (a stream: one a line).
    #[arg(long, global = true, value_enum, default_value = "text")]
    format: Format,

    /// The same as --format json.
    #[arg(long, global = true, conflicts_with = "format")]
    json: bool,

    /// How long the command may take: 30, 30s, 500ms, 2m, 1h, none [default: 30s; 5m with --wait; 60s beyond their duration
    /// for diagnostics; none for call, watch and top].
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_timeout)]
    timeout: Option<Limit>,

    /// Whether text is coloured. NO_COLOR turns `auto` off.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows the supervisor, the root and its children, what the monitors know, and the workers.
    Status,
    /// Lists the workers that are connected.
    Workers,
    /// Prints events as they happen, until interrupted.
    #[command(
        after_help = "Events: register, remove, restart, leak, metrics, health, incident, stopping, and those of the \
                            application's monitors. `lost` stands where events are missing. Times are UTC."
    )]
    Watch {
        /// The events that are wanted; all of them if none is named.
        #[arg(value_name = "EVENT")]
        events: Vec<String>,
    },
    /// Measures a round trip, and tells versions.
    Ping,
    /// Calls an operation of a worker, or of the supervisor.
    #[command(after_help = WORKER)]
    Call(Call),
    /// Has one worker, or another child of the root, replaced by a fresh process.
    #[command(after_help = CHILD)]
    Replace(Replace),
    /// Has the application stopped (INT to the root), for whoever started it to start it again.
    Restart(Wait),
    /// Has all children replaced by new ones, side by side (HUP to the root).
    Reload(Wait),
    /// Shows all of it live, and lets you look closer and do something about it.
    Top {
        /// How often to ask the supervisor: 1, 500ms, 5s.
        #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1s")]
        interval: Duration,
    },
    /// Waits until every child is ready. With --timeout 0 it looks once.
    Ready,
    /// Samples what a worker allocates, and what it keeps.
    #[command(after_help = WORKER)]
    MemorySample(MemorySample),
    /// Writes what a worker has allocated to a file.
    #[command(after_help = WORKER)]
    MemoryDump(Dump),
    /// Shows where each thread of a worker is.
    #[command(after_help = WORKER)]
    ThreadDump(Outside),
    /// Shows the tasks of a worker.
    #[command(after_help = WORKER)]
    SchedulerDump(Outside),
    /// Shows how a worker uses its allocator for some time.
    #[command(after_help = WORKER)]
    AllocatorProfile(Sampling),
    /// Shows where a worker spends the time of processors.
    #[command(after_help = WORKER)]
    CpuProfile(CpuProfile),
    /// Prints a script that completes the command line in a shell.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Prints the manual page.
    Man,
}

/// What a report is about, and where it goes.
#[derive(Debug, clap::Args)]
pub(crate) struct Dump {
    /// The worker.
    pub(crate) worker: String,
    #[command(flatten)]
    pub(crate) destination: Destination,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Outside {
    #[command(flatten)]
    dump: Dump,
    /// Has the supervisor look into the process, which needs not answer. It may be any child of the root, as acs status names
    /// it, or `root`.
    #[arg(long, conflicts_with = "remote")]
    external: bool,
}

/// As [`Dump`], of some time.
#[derive(Debug, clap::Args)]
pub(crate) struct Sampling {
    /// The worker.
    worker: String,
    /// For how long: 30, 30s, 500ms, 2m, 1h.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30s")]
    duration: Duration,
    #[command(flatten)]
    destination: Destination,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MemorySample {
    #[command(flatten)]
    sampling: Sampling,
    /// Records every allocation, not one in 512 KiB: for programs that allocate little, and for leaks that are small. It slows
    /// down a program that allocates much.
    #[arg(long, conflicts_with = "rate")]
    full: bool,
    /// Records one allocation in so many bytes: the fewer, the more exact, and the slower the program.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CpuProfile {
    /// The worker.
    worker: String,
    /// For how long: 30, 30s, 500ms, 2m, 1h.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    duration: Duration,
    /// How often to look, in times a second. A number that is not round keeps it from falling in step with the program.
    #[arg(long, value_name = "HERTZ", value_parser = clap::value_parser!(u32).range(1..), default_value = "99")]
    frequency: u32,
    #[command(flatten)]
    destination: Destination,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Destination {
    /// Writes the report to this file; - is standard output. The form is chosen by how its name ends: .json, .txt,
    /// .pb.gz (pprof), .folded (stacks) or .svg (flame graph). The file is readable for its owner alone. One that is there
    /// is replaced, once the new report is complete.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Has the worker write the report to this path, as it sees it. A file that is there is never written over.
    #[arg(long, value_name = "PATH", conflicts_with = "output")]
    pub(crate) remote: Option<String>,
}

/// A diagnostic, as the command line asks for it.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) kind: Kind,
    pub(crate) worker: &'a str,
    pub(crate) duration: Option<Duration>,
    pub(crate) frequency: Option<u32>,
    pub(crate) records: Option<Records>,
    /// Whether it is to be taken from outside.
    pub(crate) is_external: bool,
    pub(crate) destination: &'a Destination,
}

impl Command {
    /// The diagnostic that it is to take, if it is one that does.
    pub(crate) fn diagnostic(&self) -> Option<Asked<'_>> {
        let sampling = |kind, it: &'_ Sampling| (kind, Some(it.duration));
        let (kind, duration) = match self {
            Self::MemorySample(it) => sampling(Kind::MemorySample, &it.sampling),
            Self::AllocatorProfile(it) => sampling(Kind::AllocatorProfile, it),
            Self::CpuProfile(it) => (Kind::CpuProfile, Some(it.duration)),
            Self::MemoryDump(_) => (Kind::MemoryDump, None),
            Self::ThreadDump(_) => (Kind::ThreadDump, None),
            Self::SchedulerDump(_) => (Kind::SchedulerDump, None),
            _ => return None,
        };
        let (worker, frequency, destination) = match self {
            Self::MemorySample(MemorySample { sampling: it, .. }) | Self::AllocatorProfile(it) => {
                (&it.worker, None, &it.destination)
            }
            Self::CpuProfile(it) => (&it.worker, Some(it.frequency), &it.destination),
            Self::ThreadDump(Outside { dump: it, .. })
            | Self::SchedulerDump(Outside { dump: it, .. })
            | Self::MemoryDump(it) => (&it.worker, None, &it.destination),
            _ => return None,
        };
        let is_external = matches!(self, Self::ThreadDump(dump) | Self::SchedulerDump(dump) if dump.external);
        let records = match self {
            Self::MemorySample(MemorySample { full: true, .. }) => Some(Records::All),
            Self::MemorySample(it) => it.rate.map(|bytes| Records::OneIn { bytes }),
            _ => None,
        };
        Some(Asked { kind, worker, duration, frequency, records, is_external, destination })
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Call {
    /// The worker, or `supervisor`.
    #[arg(value_name = "WORKER|supervisor")]
    pub(crate) target: String,
    /// The name of the operation.
    pub(crate) operation: String,
    /// Parameters. A value that is JSON is taken as such, any other is a string.
    #[arg(value_name = "KEY=VALUE", value_parser = parse_parameter)]
    parameters: Vec<(String, Value)>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Replace {
    /// The worker, or the child.
    pub(crate) worker: String,
    /// Why; it is logged, and stands in the event.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Wait {
    /// Returns when what is new is ready, or says why it is not.
    #[arg(long)]
    pub(crate) wait: bool,
}

impl Arguments {
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        // A variable that is empty says as little as one that is not there.
        let variable = || std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        self.socket.clone().or_else(variable).unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET))
    }

    /// How long the command may take, if that is bounded.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        match (self.timeout, &self.command) {
            (Some(Limit(limit)), _) => limit,
            (None, Command::Call(_) | Command::Watch { .. } | Command::Top { .. }) => None,
            (None, command) if let Some(asked) = command.diagnostic() => {
                asked.duration.unwrap_or_default().checked_add(DEFAULT_REPORT_TIMEOUT)
            }
            (None, Command::Restart(wait) | Command::Reload(wait) | Command::Replace(Replace { wait, .. }))
                if wait.wait =>
            {
                Some(DEFAULT_WAIT_TIMEOUT)
            }
            (None, _) => Some(DEFAULT_TIMEOUT),
        }
    }
}

impl Call {
    /// The parameters as the fields of a message.
    pub(crate) fn parameters(&self) -> Result<Map<String, Value>, String> {
        let mut map = Map::new();

        for (key, value) in &self.parameters {
            if map.insert(key.clone(), value.clone()).is_some() {
                return Err(format!("the parameter '{key}' is given twice"));
            }
        }

        Ok(map)
    }
}

/// A time, or none, for which anything too long stands as well. It is a type of its own because an option of an option would mean something else to clap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit(Option<Duration>);

fn parse_timeout(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }

    parse_time(text).map(Limit).map_err(|hint| format!("{hint}; or none, for as long as it takes"))
}

/// A time that something lasts.
fn parse_duration(text: &str) -> Result<Duration, String> {
    match parse_time(text)? {
        Some(Duration::ZERO) => Err("the time has to be longer than nothing".to_owned()),
        Some(duration) => Ok(duration),
        None => Err(format!("'{text}' is longer than anything lasts")),
    }
}

/// A time; `None` if it is more than can be represented.
fn parse_time(text: &str) -> Result<Option<Duration>, String> {
    let unit = text.trim_start_matches(|character: char| character.is_ascii_digit() || character == '.');
    let number = &text[..text.len() - unit.len()];
    let seconds = match unit {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(time_hint(text)),
    };

    let number: f64 = number.parse().map_err(|_| time_hint(text))?;
    Ok(Duration::try_from_secs_f64(number * seconds).ok())
}

fn time_hint(text: &str) -> String {
    format!("'{text}' is not a time: write 30, 30s, 500ms, 2m or 1h")
}

fn parse_parameter(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;

    if key.is_empty() {
        return Err("the key is empty: write KEY=VALUE".to_owned());
    }

    if RESERVED.contains(&key) {
        return Err(format!("'{key}' is reserved by the protocol, and no operation has a parameter of that name"));
    }

    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok((key.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use serde_json::json;

    use super::*;

    fn parse(arguments: &[&str]) -> Arguments {
        Arguments::try_parse_from([&["acs"], arguments].concat()).unwrap()
    }

    fn refused(arguments: &[&str]) -> String {
        Arguments::try_parse_from([&["acs"], arguments].concat()).unwrap_err().to_string()
    }

    #[test]
    fn the_definition_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn times() {
        let time = |text| parse_timeout(text).unwrap().0;
        assert_eq!(time("30"), Some(Duration::from_secs(30)));
        assert_eq!(time("30s"), Some(Duration::from_secs(30)));
        assert_eq!(time("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(time("2m"), Some(Duration::from_secs(120)));
        assert_eq!(time("1h"), Some(Duration::from_secs(3600)));
        assert_eq!(time("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(time("0"), Some(Duration::ZERO));
        assert_eq!(time("none"), None);
        assert_eq!(time("99999999999999999999999999"), None);

        for text in ["", "s", "-1", "1d", "1 s", "1.2.3", ".", "inf", "NaN", "1e3", "ü"] {
            let hint = parse_timeout(text).unwrap_err();
            assert_eq!(
                hint,
                format!("'{text}' is not a time: write 30, 30s, 500ms, 2m or 1h; or none, for as long as it takes")
            );
            assert_eq!(parse_duration(text).unwrap_err(), time_hint(text));
        }
    }

    #[test]
    fn parameters_are_json_or_else_text() {
        let parameter = |text| parse_parameter(text).unwrap().1;
        assert_eq!(parameter("a=1"), json!(1));
        assert_eq!(parameter("a=1.5"), json!(1.5));
        assert_eq!(parameter("a=true"), json!(true));
        assert_eq!(parameter("a=null"), json!(null));
        assert_eq!(parameter(r#"a={"b":[1,2]}"#), json!({"b": [1, 2]}));
        assert_eq!(parameter(r#"a="1""#), json!("1"));
        assert_eq!(parameter("a=30s"), json!("30s"));
        assert_eq!(parameter("a=b=c"), json!("b=c"));
        assert_eq!(parameter("a="), json!(""));
        assert_eq!(parse_parameter("a=1").unwrap().0, "a");

        for text in ["a", "=1", "", "do=ping", "id=1"] {
            assert!(parse_parameter(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_parameter_given_twice_is_refused() {
        let arguments = parse(&["call", "web", "echo", "a=1", "b=2"]);
        let Command::Call(call) = &arguments.command else { panic!() };
        assert_eq!(Value::from(call.parameters().unwrap()), json!({"a": 1, "b": 2}));

        let arguments = parse(&["call", "web", "echo", "a=1", "a=2"]);
        let Command::Call(call) = &arguments.command else { panic!() };
        assert!(call.parameters().unwrap_err().contains("'a'"));
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        for arguments in [["--timeout", "2m", "ready"], ["ready", "--timeout", "2m"]] {
            assert_eq!(parse(&arguments).timeout(), Some(Duration::from_secs(120)));
        }
    }

    #[test]
    fn json_has_two_names() {
        for (arguments, format) in [
            (&["status"][..], Format::Text),
            (&["status", "--json"], Format::Json),
            (&["--json", "status"], Format::Json),
            (&["--format", "json", "status"], Format::Json),
        ] {
            assert_eq!(parse(arguments).format(), format);
        }
        assert!(refused(&["--json", "--format", "text", "status"]).contains("cannot be used with"));
    }

    #[test]
    fn the_default_time_depends_on_the_command() {
        assert_eq!(parse(&["status"]).timeout(), Some(DEFAULT_TIMEOUT));
        assert_eq!(parse(&["reload"]).timeout(), Some(DEFAULT_TIMEOUT));
        assert_eq!(parse(&["reload", "--wait"]).timeout(), Some(DEFAULT_WAIT_TIMEOUT));
        assert_eq!(parse(&["call", "web", "ping"]).timeout(), None);
        assert_eq!(parse(&["watch", "leak"]).timeout(), None);
        assert_eq!(parse(&["--timeout", "none", "status"]).timeout(), None);
    }

    #[test]
    fn mistakes_are_told() {
        assert!(refused(&["--timeout", "soon", "status"]).contains("write 30, 30s, 500ms"));
        assert!(refused(&["call", "web", "echo", "nonsense"]).contains("KEY=VALUE"));
        assert!(refused(&["statsu"]).contains("status"));
    }
}
