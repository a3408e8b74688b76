//! What is written by whoever says it, without the driver.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream as BlockingStream,
    time::Duration,
};

use async_container_protocol::{Client, Driver, Fields, NoOperations, Settings, Side, Socket};
use tokio::{net::UnixStream, task::yield_now, time::timeout};

const LIMIT: Duration = Duration::from_secs(60);

/// A client whose driver waits, and the other end.
async fn resting() -> (Client, BlockingStream) {
    let (here, there) = BlockingStream::pair().unwrap();
    rest(here, there).await
}

async fn rest(here: BlockingStream, mut there: BlockingStream) -> (Client, BlockingStream) {
    for end in [&here, &there] {
        end.set_nonblocking(true).unwrap();
    }
    let socket = Socket::from(UnixStream::from_std(here).unwrap());
    let (client, driver) = Driver::new(socket, Side::Connected, NoOperations, Settings::default());
    driver.spawn();
    // What it announces is written before it rests.
    let announced = async {
        while take(&mut there).is_empty() {
            yield_now().await;
        }
    };
    timeout(LIMIT, announced).await.unwrap();
    (client, there)
}

/// What is there to be read.
fn take(stream: &mut BlockingStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => bytes,
        result => panic!("{result:?}"),
    }
}

/// Makes a call that nobody waits for.
fn call(client: &Client, operation: &str) {
    client.call_then(operation, &Fields::empty(), LIMIT, drop);
}

#[tokio::test]
async fn a_call_alone_is_on_its_way_at_once_and_what_follows_goes_together() {
    let (client, mut there) = resting().await;
    call(&client, "a");
    assert_eq!(take(&mut there), b"\0\0\0\x0a\x82\xa2id\x02\xa2do\xa1a");
    yield_now().await;
    call(&client, "b");
    call(&client, "c");
    assert_eq!(take(&mut there), b"", "there may be more of them");
    yield_now().await;
    assert_eq!(take(&mut there), b"\0\0\0\x0a\x82\xa2id\x04\xa2do\xa1b\0\0\0\x0a\x82\xa2id\x06\xa2do\xa1c");
}

/// Of calls that are waited for, many may follow as soon as some are answered.
#[tokio::test]
async fn a_call_that_is_waited_for_goes_with_what_follows() {
    let (client, mut there) = resting().await;
    let calls = [client.call("a", &()), client.call("b", &())];
    assert_eq!(take(&mut there), b"");
    yield_now().await;
    assert_eq!(take(&mut there), b"\0\0\0\x0a\x82\xa2id\x02\xa2do\xa1a\0\0\0\x0a\x82\xa2id\x04\xa2do\xa1b");
    drop(calls);
}

#[tokio::test]
async fn what_the_socket_does_not_take_is_left_to_the_driver() {
    let (here, there) = BlockingStream::pair().unwrap();
    let mut other = here.try_clone().unwrap();
    let (client, mut there) = rest(here, there).await;
    let mut filling = 0;
    while let Ok(count) = other.write(&[7; 1000]) {
        filling += count;
    }
    call(&client, "a");
    let mut bytes = take(&mut there);
    assert_eq!(bytes.len(), filling, "there was no room for more");
    let all = async {
        while bytes.len() == filling {
            yield_now().await;
            bytes.extend(take(&mut there));
        }
    };
    timeout(LIMIT, all).await.unwrap();
    assert_eq!(bytes[filling..], b"\0\0\0\x0a\x82\xa2id\x02\xa2do\xa1a"[..]);
}

/// Whoever holds a handle does not hold the socket.
#[tokio::test]
async fn the_socket_is_closed_with_the_driver() {
    let (here, mut there) = BlockingStream::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    let socket = Socket::from(UnixStream::from_std(here).unwrap());
    let (client, driver) = Driver::new(socket, Side::Connected, NoOperations, Settings::default());
    let driver = driver.spawn();
    yield_now().await;
    driver.abort();
    timeout(LIMIT, client.closed()).await.unwrap();
    assert!(driver.await.is_err());
    let mut rest = Vec::new();
    there.read_to_end(&mut rest).unwrap();
    assert!(client.call("a", &()).await.is_err());
}
