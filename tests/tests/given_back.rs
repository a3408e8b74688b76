//! What a supervisor took for many connections is given back to the system once they are gone.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Supervisor, proc};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

/// How many connections there are, where as many files may be open.
const CONNECTIONS: u64 = 2000;
/// How many of the files that may be open are for other things.
const OTHER_FILES: u64 = 100;

/// Has this process permitted as many open files as it may permit itself, and gives the number of connections.
fn connections() -> io::Result<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum.map_or(CONNECTIONS, |maximum| CONNECTIONS.min(maximum.saturating_sub(OTHER_FILES))))
}

/// A connection that was answered a call.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"{\"id\":2,\"do\":\"ping\"}\n")?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    assert!(line.contains("uptime"), "{line}");
    Ok(stream)
}

#[test]
fn memory_of_connections_that_ended_is_given_back() -> io::Result<()> {
    let count = connections()?;
    let dir = Dir::new()?;
    let mut program = dir.example("simple")?.args(["--workers", "1"]).start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    supervisor.wait_for_workers("the worker", LIMIT, |workers| workers.len() == 1)?;
    let pid = supervisor.ask("ping", json!({}))?["process_id"].as_u64().unwrap_or_default() as u32;

    let before = proc::proportional_set_size(pid)?;
    let streams: Vec<UnixStream> = (0..count).map(|_| connect(&dir.socket())).collect::<io::Result<_>>()?;
    // What is kept for it lies behind all of theirs, so that theirs is not at the end of the heap, from where any allocator gives
    // it back.
    let _last = connect(&dir.socket())?;
    let taken = proc::proportional_set_size(pid)?.saturating_sub(before);
    assert!(
        taken > count * 1024,
        "{count} connections took {taken} bytes: too little to tell whether it is given back"
    );
    drop(streams);

    program.wait_for("the memory to be given back", LIMIT, || {
        let left = proc::proportional_set_size(pid)?.saturating_sub(before);
        Ok((left < taken / 2).then_some(()))
    })
}
