//! Work that is divided among processes, and gathered: `cargo run --example fan_out -- --below 200000 --workers 4`
//!
//! Each worker counts the primes of its share, and sends the number over a Unix socket to the gatherer. The root has bound
//! that socket, so it does not matter who starts first. When all shares are there the gatherer prints the sum and ends; it is
//! essential, so the application ends with its status. A worker that is killed meanwhile is started again and counts anew.

use std::process::ExitCode;

use async_container_supervisor::{Address, Application, BoxError, Instance, Restart, Service};
use clap::Parser;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// Where shares are sent to, in the working directory.
const SOCKET: &str = "shares.ipc";

#[derive(Clone, Copy, Parser)]
struct Arguments {
    /// Counts the primes below this.
    #[arg(long, default_value_t = 200_000)]
    below: u64,
    /// Among how many processes the work is divided.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let gather = move |instance| gather(instance, arguments.workers);
    let count = move |instance| count(instance, arguments);
    Application::new("fan_out")
        .service(Service::new("gatherer", gather).count(1).listen("shares", Address::unix(SOCKET)).essential())
        // One that has sent its share is done; one that was killed is not.
        .service(Service::new("counter", count).count(arguments.workers).restart(Restart::OnFailure))
        .run()
}

async fn gather(instance: Instance, workers: u32) -> Result<(), BoxError> {
    let listener = instance.unix_listener("shares")?;
    instance.ready()?;
    let mut shares = vec![None; workers as usize];
    while shares.contains(&None) {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = instance.shutdown() => return Err("asked to end before all was counted".into()),
        };
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await?;
        // A counter that was killed in the middle of the line sends it again.
        if let Some((index, share)) = line.trim_end().split_once(' ') {
            shares[index.parse::<usize>()? - 1] = Some(share.parse::<u64>()?);
        }
    }
    println!("{} primes", shares.into_iter().flatten().sum::<u64>());
    Ok(())
}

async fn count(instance: Instance, arguments: Arguments) -> Result<(), BoxError> {
    instance.ready()?;
    let (index, step) = (u64::from(instance.index()), arguments.workers as usize);
    // Off the loop, so that this still beats, and hears when it is to end.
    let counting = tokio::task::spawn_blocking(move || (index..arguments.below).step_by(step).filter(is_prime).count());
    let share = tokio::select! {
        share = counting => share?,
        () = instance.shutdown() => return Ok(()),
    };
    let mut stream = UnixStream::connect(SOCKET).await?;
    stream.write_all(format!("{index} {share}\n").as_bytes()).await?;
    Ok(())
}

fn is_prime(number: &u64) -> bool {
    *number > 1
        && (2..).take_while(|divisor| divisor * divisor <= *number).all(|divisor| !number.is_multiple_of(divisor))
}
