//! How long a call takes.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use async_container_protocol::Client;
use async_container_supervisor_tests::{Dir, Supervisor};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::io::AsyncWriteExt as _;

use super::{
    START_LIMIT, echo, flight, own,
    report::{Report, Row, Target, Unit, microseconds, percentile},
    settle, wait_for_listener,
};
use crate::Result;

const WORKERS: usize = 4;

const CALLS: usize = 20_000;

/// The calls of one way to make them before it is the turn of the next one.
const ROUND: usize = 1_000;

/// The calls of each way before the first that counts.
const WARM_UP: usize = 2_000;

/// What a call may take in terms of the echo of as many bytes.
const RATIO: f64 = 1.2;

/// How long an answer may take before the measuring gives up.
const LIMIT: Duration = Duration::from_secs(10);

/// `{"id": 2, "do": "status"}`, framed. One call is made at a time, so that each may have the same id.
const REQUEST: &[u8] = b"\0\0\0\x0f\x82\xa2id\x02\xa2do\xa6status";

pub(super) fn measure(with_peers: bool) -> Result<Report> {
    pin_to_one_processor()?;
    let dir = Dir::new()?;
    let mut program = dir.example("simple")?.args(["--workers", &WORKERS.to_string()]).start()?;
    let socket = dir.socket();
    let mut supervisor = Supervisor::of(&mut program, &socket, START_LIMIT)?;
    supervisor.wait_for_workers(&format!("{WORKERS} workers"), START_LIMIT, |workers| workers.len() >= WORKERS)?;
    let worker = supervisor.workers()?.pop().ok_or("there is no worker")?.connection;
    drop(supervisor);
    settle(Duration::from_millis(500));

    let mut raw = Raw::connect(&socket)?;
    let answer = raw.answer()?;
    let echo_socket = dir.file("echo");
    let mut server = own(&dir, "echo")?
        .arg("--socket")
        .arg(&echo_socket)
        .args(["--request", &REQUEST.len().to_string(), "--response", &answer.length.to_string()])
        .start()?;
    let mut raw_echo = Echo { stream: wait_for_listener(&mut server, &echo_socket)?, response: vec![0; answer.length] };
    raw_echo.stream.set_read_timeout(Some(LIMIT))?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let length = answer.length;
    let supervisor_socket = socket.clone();
    // In a task, where programs make their calls: what wakes the future that a runtime blocks on makes a system call.
    let calls = async move {
        let mut times: [Vec<Duration>; 4] = std::array::from_fn(|_| Vec::with_capacity(WARM_UP + CALLS));
        let mut tokio_echo = tokio::net::UnixStream::connect(&echo_socket).await?;
        let mut room = echo::room(length);
        let client = Client::connect(&supervisor_socket).await?;
        // In turn, so that whatever else the machine does meets all of them.
        while times[0].len() < WARM_UP + CALLS {
            let [floor, ours, raw_floor, raw_ours] = &mut times;
            for _ in 0..ROUND {
                let begin = Instant::now();
                tokio_echo.write_all(REQUEST).await?;
                echo::receive(&mut tokio_echo, &mut room, length).await?;
                floor.push(begin.elapsed());
            }
            for _ in 0..ROUND {
                let begin = Instant::now();
                client.call("status", &()).finish().await?;
                ours.push(begin.elapsed());
            }
            for _ in 0..ROUND {
                let begin = Instant::now();
                raw_echo.call()?;
                raw_floor.push(begin.elapsed());
            }
            for _ in 0..ROUND {
                let begin = Instant::now();
                raw.call(answer.frames)?;
                raw_ours.push(begin.elapsed());
            }
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(times)
    };
    let times = runtime.block_on(async { tokio::spawn(calls).await })??;

    let [floor, ours, raw_floor, raw_ours] = times.map(|mut times| {
        times.drain(..WARM_UP);
        times.sort();
        times
    });
    let mut report = Report::new(
        "rpc",
        format!(
            "{CALLS} calls of status, one at a time, {WORKERS} workers; the floor is an echo on tokio of {} and {} bytes",
            REQUEST.len(),
            answer.length
        ),
    );
    let ways =
        [("Client against tokio", &floor, &ours, true), ("blocking against blocking", &raw_floor, &raw_ours, false)];
    for (name, floor, ours, is_promised) in ways {
        for (percent, part) in [("p50", 0.5), ("p99", 0.99)] {
            report.row(Row {
                what: format!("{name}, {percent}"),
                unit: Unit::Microseconds,
                floor: Some(microseconds(percentile(floor, part))),
                ours: microseconds(percentile(ours, part)),
                target: (is_promised && percent == "p50").then_some(Target::Ratio(RATIO)),
            });
        }
    }
    flight::measure(&mut report, &dir, &socket, &worker, with_peers)?;
    Ok(report)
}

/// Has this process, and all that it starts, share a processor. Where two processes of a conversation run, on one
/// or on two, makes more of a difference than anything else, and is decided anew for every pair of them.
fn pin_to_one_processor() -> Result<()> {
    let allowed = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    let last = (0..CpuSet::MAX_CPU).rev().find(|processor| allowed.is_set(*processor));
    one.set(last.ok_or("there is no processor to run on")?);
    Ok(sched_setaffinity(None, &one)?)
}

/// A client without a library: the request is a constant, and of the answer only the lengths are read.
struct Raw {
    stream: UnixStream,
    buffer: Vec<u8>,
    filled: usize,
}

/// What a call is answered with. The numbers in it vary, and their lengths with them, but not what it consists of.
struct Answer {
    frames: usize,
    length: usize,
}

impl Raw {
    fn connect(socket: &Path) -> Result<Raw> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Raw { stream, buffer: vec![0; 1 << 20], filled: 0 })
    }

    /// Makes one call and tells what the answer consists of.
    fn answer(&mut self) -> Result<Answer> {
        self.stream.write_all(REQUEST)?;
        let mut at = 0;
        let mut frames = 0;
        loop {
            let end = self.frame(at)?;
            frames += 1;
            // `"finished": true`
            if self.buffer[at..end].windows(10).any(|part| part == b"\xa8finished\xc3") {
                if self.buffer[at..end].windows(8).any(|part| part == b"\xa6failed\xc3") {
                    return Err("the supervisor answered status with a failure".into());
                }
                self.filled = 0;
                return Ok(Answer { frames, length: end });
            }
            at = end;
        }
    }

    /// Makes one call and reads so many frames.
    fn call(&mut self, frames: usize) -> Result<()> {
        self.stream.write_all(REQUEST)?;
        let mut at = 0;
        for _ in 0..frames {
            at = self.frame(at)?;
        }
        self.filled = 0;
        Ok(())
    }

    /// Reads until the frame that begins at `at` is there, and gives its end.
    fn frame(&mut self, at: usize) -> Result<usize> {
        loop {
            if let Some(length) = self.buffer[at..self.filled].first_chunk() {
                let end = at + 4 + u32::from_be_bytes(*length) as usize;
                if end > self.buffer.len() {
                    return Err(format!("an answer of more than {} bytes", self.buffer.len()).into());
                }
                if end <= self.filled {
                    return Ok(end);
                }
            }
            match self.stream.read(&mut self.buffer[self.filled..])? {
                0 => return Err("the supervisor closed the connection".into()),
                length => self.filled += length,
            }
        }
    }
}

/// The same client of the echo.
struct Echo {
    stream: UnixStream,
    response: Vec<u8>,
}

impl Echo {
    fn call(&mut self) -> Result<()> {
        self.stream.write_all(REQUEST)?;
        Ok(self.stream.read_exact(&mut self.response)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_framed() {
        let (length, payload) = REQUEST.split_first_chunk::<4>().unwrap();
        assert_eq!(u32::from_be_bytes(*length) as usize, payload.len());
    }

    #[test]
    fn frames_are_read_as_they_come() {
        let (mut server, client) = UnixStream::pair().unwrap();
        let mut raw = Raw { stream: client, buffer: vec![0; 64], filled: 0 };
        let frames = [b"\0\0\0\x01\x80".as_slice(), b"\0\0\0\x0b\x81\xa8finished\xc3"].concat();
        server.write_all(&frames[..7]).unwrap();
        server.write_all(&frames[7..]).unwrap();
        let answer = raw.answer().unwrap();
        assert_eq!((answer.frames, answer.length), (2, frames.len()));
        server.write_all(&frames).unwrap();
        raw.call(2).unwrap();
        server.write_all(b"\xff\0\0\0").unwrap();
        assert!(raw.call(1).is_err(), "the frame is longer than any that is expected");
    }
}
