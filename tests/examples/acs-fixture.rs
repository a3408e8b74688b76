//! Applications that misbehave, for the tests: `acs-fixture SCENARIO [ARGUMENT]`

#![forbid(unsafe_code)]

use std::{future::pending, path::Path, process::ExitCode, time::Duration};

use async_container_supervisor::container::{
    Context, ExitStatus, FailureRate, Limits, Notify, Policy, PolicyChild, Reload, Strategy, Verdict,
    lifecycle::Failure,
};
use async_container_supervisor::{
    Application, Backoff, BoxError, Command, Instance, Readiness, Restart, Service,
    container::{Resource, Stdio},
    server::{Role, Server},
};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let scenario = arguments.next().unwrap_or_default();
    let argument = arguments.next().unwrap_or_default();
    let application = Application::new("fixture");
    let application = match scenario.as_str() {
        "nameless" => application.service(Service::new("", ready)),
        "odd-name" => application.service(Service::new("a#1", ready)),
        "twins" => application.service(Service::new("twin", ready)).service(Service::new("twin", ready)),
        "none" => application,
        "zero" => application.service(Service::new("worker", ready).count(0)),
        "socket" => application
            .service(Service::new("worker", ready).count(1).supervised())
            .supervisor(|it| it)
            .socket(argument),
        // Lets another user look, if its socket's file has the mode for that.
        "roles" => application
            .service(Service::new("worker", ready).count(1).supervised())
            .supervisor(|it| it.allow_user(65534, Role::Observe))
            .socket_mode(u32::from_str_radix(&argument, 8).unwrap_or_default()),
        // Writes garbage to its notify pipe, then says that it is ready all the same.
        "garbage" => {
            let script = r#"exec 9>/proc/self/fd/$NOTIFY_PIPE; echo garbage >&9; echo '["more"]' >&9; echo '{"ready":true}' >&9; sleep 1000000"#;
            let command = Command::new("sh").argument("-c").argument(script);
            application.service(Service::command("garbage", command).count(1).readiness(Readiness::Notify))
        }
        // Two that say how they are without end.
        "talks" => {
            let script = r#"echo '{"ready":true}' >/proc/self/fd/$NOTIFY_PIPE; exec yes '{"status":"here"}' >/proc/self/fd/$NOTIFY_PIPE"#;
            let command = Command::new("sh").argument("-c").argument(script);
            application.service(Service::command("talker", command).count(2).readiness(Readiness::Notify))
        }
        // Closes its notify pipe, and lives on.
        "closes-pipe" => {
            let script = r#"echo '{"ready":true}' >/proc/self/fd/$NOTIFY_PIPE; exec 3>&-; exec sleep 1000000"#;
            let command = Command::new("sh").argument("-c").argument(script);
            application.service(Service::command("closer", command).count(1).readiness(Readiness::Notify))
        }
        // Another application, which is ready when its children are.
        "nested" => {
            let command = Command::new(argument).arguments(["--count", "2", "--", "sleep", "1000000"]);
            application.service(Service::command("nested", command).count(1).readiness(Readiness::Notify))
        }
        // Shows what it was started with.
        "settings" => {
            let script = r#"cat /proc/self/status; ulimit -n; umask; nice; pwd; echo "$HOME $USER $GREETING""#;
            let command = Command::new("sh")
                .arguments(["-c", script])
                .environment("GREETING", "hello")
                .directory("/")
                .user(argument)
                .umask(0o27)
                .nice(3)
                .limit(Resource::Nofile, Some(77), Some(99))
                .stdin(Stdio::Null)
                .stdout(Stdio::File("settings.out".into()))
                .stderr(Stdio::File("settings.err".into()));
            application.service(Service::command("settings", command).count(1).restart(Restart::Never))
        }
        // A policy of the library, and one that fails in every hook.
        "gives-up" => {
            let command = Command::new("sh").arguments(["-c", "exit 1"]);
            application
                .service(Service::command("failing", command).count(8))
                .controller(|it| it.policy(Faulty).policy(FailureRate::default()))
        }
        "patient" => application
            .service(Service::new("hanging", hang).count(1).health_check_timeout(Duration::from_millis(200)))
            .controller(|it| it.policy(Patient { chances: 2 })),
        // Ends when the file `end` holds a status.
        "essential" => {
            let script = "until [ -s end ]; do sleep 0.01; done; exit $(cat end)";
            let command = Command::new("sh").arguments(["-c", script]);
            application
                .service(Service::command("vital", command).count(1).essential())
                .service(Service::new("worker", ready).count(2))
        }
        "statuses" => {
            let shell = |script: &str| Command::new("sh").arguments(["-c", script]);
            application
                .service(
                    Service::command("enough", shell("exit 3"))
                        .count(1)
                        .restart(Restart::Always)
                        .restart_never_after([ExitStatus::Exited(3)]),
                )
                .service(
                    Service::command("fine", shell("exit 143"))
                        .count(1)
                        .restart(Restart::OnFailure)
                        .success_statuses([ExitStatus::Exited(143), ExitStatus::Exited(3)]),
                )
                .service(
                    Service::command("again", shell("[ -e again ] && exit 0; touch again; exit 7"))
                        .count(1)
                        .restart(Restart::Never)
                        .restart_always_after([ExitStatus::Exited(7)]),
                )
        }
        "one-for-all" | "rest-for-one" => {
            let strategy = if scenario == "one-for-all" { Strategy::OneForAll } else { Strategy::RestForOne };
            let sleep = |name: &str| Service::command(name, Command::new("sleep").argument("1000000"));
            application
                .service(sleep("first").count(1))
                .service(sleep("second").count(2))
                .service(sleep("third").count(1))
                .controller(|it| it.strategy(strategy))
        }
        // The first is ready only when the file `go` is there.
        "dependent" => {
            let script = r#"until [ -e go ]; do sleep 0.01; done; echo '{"ready":true}' >/proc/self/fd/$NOTIFY_PIPE; exec sleep 1000000"#;
            let command = Command::new("sh").arguments(["-c", script]);
            application
                .service(Service::new("web", ready).count(2).after("cache").after("database"))
                .service(Service::new("cache", ready).count(1).after("database"))
                .service(Service::command("database", command).count(1).readiness(Readiness::Notify))
        }
        "circular" => application
            .service(Service::new("a", ready).count(1).after("b"))
            .service(Service::new("b", ready).count(1).after("a")),
        "dangling" => application.service(Service::new("a", ready).count(1).after("nothing")),
        "ages" => application.service(Service::new("worker", ready).count(3).maximum_age(Duration::from_millis(300))),
        // Each wants to be replaced after so many connections.
        "recycles" => application
            .service(Service::new("worker", recycles).count(2).listen("echo", "127.0.0.1:0").backoff(at_once())),
        "threads" => {
            let service = Service::new("hybrid", threaded).threads(3).health_check_timeout(Duration::from_secs(2));
            application.service(service.count(2).supervised()).supervisor(|it| it)
        }
        "rolling" => application
            .service(Service::new("worker", breakable).count(4).supervised())
            .supervisor(|it| it)
            .controller(|it| it.reload(Reload::Rolling { at_once: 1, soak: Duration::from_millis(50) })),
        // Runs what the file `services` says: a line for each, its name and its key.
        "configured" => application.supervisor(|it| it).controller(|it| {
            it.services_from(|| {
                let text = std::fs::read_to_string("services")?;
                let services = text.lines().filter_map(|line| line.split_once(' ')).map(|(name, key)| {
                    Service::command(name, Command::new("sleep").argument("1000000")).count(1).key(key)
                });
                Ok(services.collect())
            })
        }),
        "keeps-descendants" => {
            let script = "setsid sleep 1000009 & sleep 1000011 & exec sleep 1000010";
            let command = Command::new("sh").arguments(["-c", script]);
            application.service(Service::command("parent", command).count(1).kill_descendants(false))
        }
        // Beside a process, two threads of the root, which do what files in the directory tell them.
        "root-threads" => {
            let service = Service::thread("inner", root_thread).count(2).listen("echo", "127.0.0.1:0");
            application
                .service(service.health_check_timeout(Duration::from_millis(500)).backoff(at_once()))
                .service(Service::new("worker", ready).count(1))
                .graceful_stop(Duration::from_millis(300))
        }
        "root-thread-supervised" => application.service(Service::thread("inner", ready).supervised()),
        // Ends where no library can see it, right after it has logged something of no importance.
        "exits" => {
            let service = Service::new("exiting", |_| async {
                for line in 1..=100 {
                    tracing::info!(line, "last words");
                }
                std::process::exit(3)
            });
            application.service(service.count(4).restart(Restart::Never))
        }
        // Says everything that can be said to whoever started it, and what is left of the variables that name him.
        "notify" => return notify(),
        // Is still starting when it is asked to end, and takes its leave properly.
        "slow-start" => application.service(Service::new("slow", take_leave).count(2)),
        // A supervisor without an application.
        "server" => return serve(),
        // Leaves something behind that nothing but a cgroup tells whose it is.
        "cgroups" => {
            let script = r#"env -i setsid sleep 1000040 & echo '{"ready":true}' >/proc/self/fd/$NOTIFY_PIPE; exec sleep 1000041"#;
            let command = Command::new("sh").arguments(["-c", script]);
            let service = Service::command("grouped", command).count(2).readiness(Readiness::Notify);
            application.service(service.backoff(at_once()))
        }
        // Uses up its memory, or its processes with the argument `forks`, or runs within its limits. With the argument `pids`, and this one,
        // that of processes is the only one.
        "limited" => {
            let limits = Limits::new().pids_max(20);
            let is_alone = ["pids", "forks"].contains(&argument.as_str());
            let limits = if is_alone { limits } else { limits.memory_max(48 << 20).cpu_max(0.5) };
            let limits = limits.best_effort(argument == "best-effort");
            let eat = if argument == "forks" { "while :; do sleep 1000042 & done" } else { "exec tail /dev/zero" };
            let script =
                format!("until [ -e go ]; do sleep 0.01; done; [ -e eaten ] && exec sleep 1000042; touch eaten; {eat}");
            let command = Command::new("sh").arguments(["-c", &script]);
            application.service(Service::command("limited", command).count(1).limits(limits))
        }
        // Is ready only where there is no file named `slow`.
        "slow-reload" => application
            .service(Service::new("worker", ready_unless_slow).count(2))
            .controller(|it| it.reload_timeout(Duration::from_millis(300))),
        "inside-runtime" => {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            return runtime.block_on(async { application.service(Service::new("worker", ready)).run() });
        }
        "never-ready" => {
            application.service(Service::new("slow", never_ready).count(1).startup_timeout(Duration::from_millis(200)))
        }
        "supervised-never-ready" => {
            application.service(Service::new("slow", never_ready).count(1).supervised()).supervisor(|it| it)
        }
        "hangs" => {
            application.service(Service::new("hanging", hang).count(1).health_check_timeout(Duration::from_millis(300)))
        }
        // More than are heard at a time.
        "beat" => {
            application.service(Service::new("beating", ready).count(80).health_check_timeout(Duration::from_secs(1)))
        }
        "hangs-visibly" => application
            .service(Service::new("hanging", hang).count(1).health_check_timeout(Duration::from_millis(300)))
            .supervisor(|it| it)
            .metrics("unix:metrics.ipc"),
        "stubborn" => application
            .service(Service::new("stubborn", stubborn).count(2))
            .graceful_stop(Duration::from_millis(argument.parse().unwrap_or(300))),
        // All that can last, lasts for ever.
        "endless" => {
            let backoff = Backoff::new().initial(Duration::MAX).maximum(Duration::MAX).healthy_after(Duration::ZERO);
            let service = Service::new("worker", ready)
                .count(2)
                .backoff(backoff)
                .startup_timeout(Duration::MAX)
                .health_check_timeout(Duration::MAX)
                .graceful_stop(Duration::MAX)
                .maximum_age(Duration::MAX)
                .examination(Duration::MAX);
            let script = "until [ -e go ]; do sleep 0.01; done; exit 1";
            let failing = Service::command("failing", Command::new("sh").arguments(["-c", script])).count(1);
            application
                .service(service)
                .service(failing.backoff(backoff.healthy_after(Duration::MAX)))
                .controller(|it| it.reload_timeout(Duration::MAX).graceful_stop(Duration::MAX))
        }
        "fails-once" => {
            let command = Command::new("sh").argument("-c").argument("exit 3");
            application.service(Service::command("failing", command).count(1).restart(Restart::Never))
        }
        "supervised-once" => {
            let command = Command::new("sh").argument("-c").argument(format!("exit {argument}"));
            application.service(Service::command("once", command).count(2).restart(Restart::Never)).supervisor(|it| it)
        }
        "succeeds-once" => {
            application.service(Service::command("true", Command::new("true")).count(2).restart(Restart::OnFailure))
        }
        // Its supervisor is taken for hung sooner than others.
        "impatient" => application
            .service(Service::new("worker", ready).count(2).supervised())
            .supervisor(|it| it)
            .supervisor_health_check_timeout(Duration::from_secs(2)),
        // Fails to start when there is a file named `broken` in the directory.
        "breakable" => application
            .service(Service::new("worker", breakable).count(2).supervised())
            .service(Service::command("sleep", Command::new("sleep").argument("1000000")).count(1))
            .supervisor(|it| it),
        "listens" => application.service(Service::new("echo", echo).count(2).listen("echo", argument)),
        // Sockets of all kinds, each of which answers with what it was sent.
        "sockets" => {
            let service =
                Service::new("echo", sockets).count(2).listen("six", "[::1]:0").listen("udp", "udp:127.0.0.1:0");
            application.service(service.listen("datagram", "unix-datagram:datagram.sock"))
        }
        // Has sockets of others, bound to addresses that are not its own.
        "activated" => application
            .service(Service::new("tcp", echo).count(2).listen("echo", "127.0.0.1:1"))
            .service(Service::new("unix", echo_unix).count(2).listen("unix", "unix:own.sock")),
        // Starts the one above, as a service manager would.
        "activates" => {
            let program = std::env::current_exe().unwrap_or_default();
            let command = Command::new(program).argument("activated");
            let service = Service::command("activated", command).count(1).readiness(Readiness::Notify);
            application.service(
                service
                    .listen("echo", "127.0.0.1:0")
                    .listen("unix", "unix:outer.sock")
                    .listen("stray", "udp:127.0.0.1:0"),
            )
        }
        // Gives it a socket of the wrong kind.
        "activates-wrongly" => {
            let program = std::env::current_exe().unwrap_or_default();
            let command = Command::new(program).argument("activated");
            application.service(
                Service::command("activated", command)
                    .count(1)
                    .restart(Restart::Never)
                    .listen("echo", "udp:127.0.0.1:0"),
            )
        }
        // Ends and is started again at once, over and over.
        "again" => {
            let command = Command::new("sh").arguments(["-c", &argument]);
            let service = Service::command("again", command).count(1).backoff(at_once());
            application.service(service.listen("socket", "127.0.0.1:0").readiness(Readiness::Notify))
        }
        // Many at a time, each of which leaves something behind in its group and something that has left it.
        "churns" => {
            let script = "sleep 0.03 & setsid sleep 0.04 & exec sleep 0.02";
            let command = Command::new("sh").arguments(["-c", script]);
            application.service(Service::command("short", command).count(6).backoff(at_once()))
        }
        "titles" => application.service(Service::new("worker", titles).count(2)),
        "panics" => application.service(Service::new("panicking", panicking).count(1)),
        other => {
            eprintln!("there is no scenario {other:?}");
            return ExitCode::from(2);
        }
    };
    application.run()
}

fn notify() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let notify = Notify::open();
    let said = [
        notify.ready(),
        notify.healthy(),
        notify.reloading(),
        notify.restarting(),
        notify.status("at work"),
        notify.error("out of paper"),
        notify.stopping(),
    ];
    let left = ["NOTIFY_PIPE", "NOTIFY_SOCKET", "NOTIFY_LOG"].map(|name| std::env::var_os(name).is_some());
    println!("{left:?}");
    if said.iter().all(Result::is_ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn take_leave(instance: Instance) -> Result<(), BoxError> {
    let shutdown = instance.shutdown();
    say(&format!("{} is starting\n", instance.name()));
    shutdown.await;
    say(&format!("{} takes its leave\n", instance.name()));
    Ok(())
}

fn serve() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let served = runtime.block_on(async {
        let listener = tokio::net::UnixListener::bind("supervisor.ipc")?;
        Server::new().serve(listener, pending::<()>()).await?;
        Ok::<(), BoxError>(())
    });
    if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Every run counts as a healthy one.
fn at_once() -> Backoff {
    Backoff::new().healthy_after(Duration::ZERO)
}

/// Fails in every hook.
struct Faulty;

impl Policy for Faulty {
    fn child_spawned(&mut self, _: &PolicyChild<'_>, _: &mut Context<'_>) -> Result<(), BoxError> {
        Err("a faulty policy".into())
    }

    fn child_exited(&mut self, _: &PolicyChild<'_>, _: ExitStatus, _: &mut Context<'_>) -> Result<(), BoxError> {
        panic!("a faulty policy");
    }
}

/// Gives a child some more chances.
struct Patient {
    chances: u32,
}

impl Policy for Patient {
    fn check_failed(&mut self, _: &PolicyChild<'_>, _: Failure, _: &mut Context<'_>) -> Result<Verdict, BoxError> {
        if self.chances == 0 {
            return Ok(Verdict::Kill);
        }
        self.chances -= 1;
        Ok(Verdict::Wait)
    }
}

async fn ready(instance: Instance) -> Result<(), BoxError> {
    instance.ready()?;
    instance.shutdown().await;
    Ok(())
}

async fn never_ready(_: Instance) -> Result<(), BoxError> {
    pending().await
}

async fn hang(instance: Instance) -> Result<(), BoxError> {
    instance.ready()?;
    std::thread::sleep(Duration::MAX);
    Ok(())
}

async fn stubborn(instance: Instance) -> Result<(), BoxError> {
    instance.ready()?;
    // Whoever asks is trusted to end by itself.
    let _asked = instance.shutdown();
    pending().await
}

/// Does what a file in the directory tells the thread to do, once.
async fn root_thread(instance: Instance) -> Result<(), BoxError> {
    let told = |what: &str| std::fs::remove_file(format!("{what}-{}", instance.name())).is_ok();
    let address = instance.listener("echo")?.local_addr()?;
    say(&format!("{} of process {} shares port {}\n", instance.name(), std::process::id(), address.port()));
    instance.status("at work")?;
    instance.ready()?;
    let shutdown = instance.shutdown();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => {
                while Path::new("deaf").exists() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                return Ok(());
            }
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
        if told("fail") {
            return Err("told to fail".into());
        }
        if told("panic") {
            panic!("told to panic");
        }
        if told("hang") {
            std::thread::sleep(Duration::MAX);
        }
    }
}

/// Does what a file in the directory tells the thread to do, once.
async fn threaded(instance: Instance) -> Result<(), BoxError> {
    let file = |what: &str| format!("{what}-{}", instance.name());
    let told = |what: &str| std::fs::remove_file(file(what)).is_ok();
    say(&format!("thread {} of process {} starts\n", instance.name(), std::process::id()));
    if instance.thread() == Some(3) {
        while !Path::new("go").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    instance.ready()?;
    let shutdown = instance.shutdown();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
        if told("fail") {
            return Err("told to fail".into());
        }
        if told("panic") {
            panic!("told to panic");
        }
        if told("hang") {
            std::thread::sleep(Duration::MAX);
        }
    }
}

/// Writes a line at once. Several processes share standard error, and `eprintln` writes a line in pieces.
fn say(line: &str) {
    eprint!("{line}");
}

async fn ready_unless_slow(instance: Instance) -> Result<(), BoxError> {
    if Path::new("slow").exists() {
        say(&format!("{} will never be ready\n", instance.name()));
        return pending().await;
    }
    ready(instance).await
}

async fn breakable(instance: Instance) -> Result<(), BoxError> {
    if Path::new("broken").exists() {
        return Err("the file `broken` is there".into());
    }
    ready(instance).await
}

/// Answers to one at a time.
async fn recycles(instance: Instance) -> Result<(), BoxError> {
    let listener = instance.listener("echo")?;
    instance.ready()?;
    let shutdown = instance.shutdown();
    tokio::pin!(shutdown);
    let mut connections = 0;
    loop {
        let (stream, _) = tokio::select! {
            connection = listener.accept() => connection?,
            () = &mut shutdown => return Ok(()),
        };
        send_back(stream).await?;
        connections += 1;
        if connections >= 20 {
            instance.recycle("20 connections")?;
        }
    }
}

async fn echo(instance: Instance) -> Result<(), BoxError> {
    let listener = instance.listener("echo")?;
    instance.ready()?;
    let shutdown = instance.shutdown();
    tokio::pin!(shutdown);
    loop {
        let (stream, _) = tokio::select! {
            connection = listener.accept() => connection?,
            () = &mut shutdown => return Ok(()),
        };
        tokio::spawn(send_back(stream));
    }
}

async fn send_back(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite) -> std::io::Result<u64> {
    let (mut read, mut write) = tokio::io::split(stream);
    tokio::io::copy(&mut read, &mut write).await
}

async fn echo_unix(instance: Instance) -> Result<(), BoxError> {
    let listener = instance.unix_listener("unix")?;
    instance.ready()?;
    let shutdown = instance.shutdown();
    tokio::pin!(shutdown);
    loop {
        let (stream, _) = tokio::select! {
            connection = listener.accept() => connection?,
            () = &mut shutdown => return Ok(()),
        };
        tokio::spawn(send_back(stream));
    }
}

async fn sockets(instance: Instance) -> Result<(), BoxError> {
    for error in [instance.listener("udp").err(), instance.unix_datagram("nothing").err()] {
        say(&format!("{}\n", error.map(|error| error.to_string()).unwrap_or_default()));
    }
    let listener = instance.listener("six")?;
    let udp = instance.udp_socket("udp")?;
    let datagram = instance.unix_datagram("datagram")?;
    instance.ready()?;
    let shutdown = instance.shutdown();
    tokio::pin!(shutdown);
    let (mut one, mut other) = ([0; 100], [0; 100]);
    loop {
        tokio::select! {
            connection = listener.accept() => {
                let (stream, _) = connection?;
                tokio::spawn(send_back(stream));
            }
            received = udp.recv_from(&mut one) => {
                let (length, sender) = received?;
                udp.send_to(&one[..length], sender).await?;
            }
            received = datagram.recv_from(&mut other) => {
                let (length, sender) = received?;
                datagram.send_to(&other[..length], sender.as_pathname().ok_or("a nameless sender")?).await?;
            }
            () = &mut shutdown => return Ok(()),
        }
    }
}

/// Shows what the file `title` holds, and says what its arguments are.
async fn titles(instance: Instance) -> Result<(), BoxError> {
    instance.ready()?;
    let shutdown = instance.shutdown();
    tokio::pin!(shutdown);
    let mut shown = None;
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
        let title = std::fs::read_to_string("title").ok();
        if title != shown {
            instance.set_title(
                title.as_ref().map_or(instance.title().to_owned(), |it| it.replace("TITLE", instance.title())),
            );
            let arguments: Vec<String> = std::env::args().skip(1).collect();
            say(&format!("{} was started with {arguments:?}\n", instance.name()));
            shown = title;
        }
    }
}

async fn panicking(instance: Instance) -> Result<(), BoxError> {
    instance.ready()?;
    panic!("as it was told");
}
