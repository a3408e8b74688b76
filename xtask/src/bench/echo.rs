//! The floor of a call: a server on tokio that reads as many bytes as a call has, and writes as many as an answer.

use std::{io, path::PathBuf};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
};

use crate::Result;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The path to listen on
    #[arg(long)]
    socket: PathBuf,
    /// The length of a request in bytes
    #[arg(long)]
    request: usize,
    /// The length of a response in bytes
    #[arg(long)]
    response: usize,
}

/// Serves until standard input ends.
pub(crate) fn run(arguments: &Arguments) -> Result {
    super::end_with_input();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = UnixListener::bind(&arguments.socket)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(serve(stream, arguments.request, arguments.response));
        }
    })
}

async fn serve(mut stream: UnixStream, request: usize, response: usize) {
    let mut room = room(request);
    let response = vec![0; response];
    // The client leaves when it is done, which ends either of the two.
    while receive(&mut stream, &mut room, request).await.is_ok() && stream.write_all(&response).await.is_ok() {}
}

/// A buffer to receive messages of that length in. It is longer than they are: a read that does not fill its buffer
/// tells tokio that there is no more, which saves the next one the call that would find out. `read_exact` does not.
pub(super) fn room(length: usize) -> Vec<u8> {
    vec![0; length + 1]
}

/// Reads one message, after which the peer sends nothing until it is answered.
pub(super) async fn receive(stream: &mut UnixStream, room: &mut [u8], length: usize) -> io::Result<()> {
    let mut filled = 0;
    while filled < length {
        match stream.read(&mut room[filled..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    Ok(())
}
