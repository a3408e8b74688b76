//! A server and a client of tarpc, over a Unix socket and in MessagePack:
//!
//! ```text
//! peers server SOCKET
//! peers client SOCKET CALLS IN_FLIGHT
//! ```
//!
//! The client prints how many seconds its calls took together.

#![deny(missing_docs)]

use std::{env, error::Error, io::Read as _, process, thread, time::Instant};

use futures::StreamExt as _;
use tarpc::{
    client, context, serde_transport,
    server::{BaseChannel, Channel as _},
};
use tokio_serde::formats::MessagePack;

/// What is left of a message of 60 bytes in this project's protocol.
const TEXT: usize = 34;

#[tarpc::service]
trait Echo {
    async fn echo(text: String) -> String;
}

#[derive(Clone)]
struct Server;

impl Echo for Server {
    async fn echo(self, _: context::Context, text: String) -> String {
        text
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;

    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["server", socket] => runtime.block_on(server(socket)),
        ["client", socket, calls, in_flight] => runtime.block_on(client(socket, calls.parse()?, in_flight.parse()?)),
        _ => Err("usage: peers server SOCKET | peers client SOCKET CALLS IN_FLIGHT".into()),
    }
}

/// Serves until standard input ends.
async fn server(socket: &str) -> Result<(), Box<dyn Error>> {
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        process::exit(0);
    });
    let mut listener = serde_transport::unix::listen(socket, MessagePack::default).await?;
    while let Some(transport) = listener.next().await {
        let requests = BaseChannel::with_defaults(transport?).execute(Server.serve());
        tokio::spawn(requests.for_each(|response| async {
            tokio::spawn(response);
        }));
    }
    Ok(())
}

async fn client(socket: &str, calls: usize, in_flight: usize) -> Result<(), Box<dyn Error>> {
    let transport = serde_transport::unix::connect(socket, MessagePack::default).await?;
    let client = EchoClient::new(client::Config::default(), transport).spawn();
    client.echo(context::current(), "x".repeat(TEXT)).await?;
    let begin = Instant::now();
    let tasks: Vec<_> = (0..in_flight)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..calls / in_flight {
                    client.echo(context::current(), "x".repeat(TEXT)).await?;
                }
                Ok::<_, client::RpcError>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    println!("{}", begin.elapsed().as_secs_f64());
    Ok(())
}
