//! What is written by whoever says it, without the driver.

use std::{
    io::{ErrorKind, Read},
    os::unix::net::UnixStream as BlockingStream,
    time::Duration,
};

use async_container_protocol::{Client, Driver, NoOperations, Operations, Request, Settings, Side, Socket};
use tokio::{net::UnixStream, sync::oneshot, task::yield_now, time::timeout};

const LIMIT: Duration = Duration::from_secs(60);

/// A client whose driver waits, and the other end.
async fn resting() -> (Client, BlockingStream) {
    let (here, mut there) = BlockingStream::pair().unwrap();
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

#[tokio::test]
async fn a_call_alone_is_on_its_way_at_once_and_what_follows_goes_together() {
    let (client, mut there) = resting().await;
    let first = client.call("a", &());
    assert_eq!(take(&mut there), b"\0\0\0\x0a\x82\xa2id\x02\xa2do\xa1a");
    let others = [client.call("b", &()), client.call("c", &())];
    assert_eq!(take(&mut there), b"", "there may be more of them");
    yield_now().await;
    assert_eq!(take(&mut there), b"\0\0\0\x0a\x82\xa2id\x04\xa2do\xa1b\0\0\0\x0a\x82\xa2id\x06\xa2do\xa1c");
    drop(others);
    yield_now().await;
    take(&mut there);
    drop(first);
    assert_eq!(take(&mut there), b"\0\0\0\x0d\x82\xa2id\x02\xa6cancel\xc3");
}

/// Nothing is lost or out of order where the socket is full in the middle of a message.
#[tokio::test]
async fn what_the_socket_does_not_take_is_left_to_the_driver() {
    let (client, mut there) = resting().await;
    let text = "x".repeat(1000);
    const COUNT: usize = 1000;
    for _ in 0..COUNT {
        // And cancelled, so that there is one at a time.
        drop(client.call(&text, &()));
    }
    let mut bytes = take(&mut there);
    assert!(bytes.len() < COUNT * text.len(), "all of it went into the socket");
    let mut expected = Vec::new();
    for number in 1..=COUNT as u16 {
        let id = match number * 2 {
            id @ ..0x80 => vec![id as u8],
            id @ ..0x100 => vec![0xcc, id as u8],
            id => [&[0xcd], &id.to_be_bytes()[..]].concat(),
        };
        for body in [
            [b"\x82\xa2id", &id[..], b"\xa2do\xda\x03\xe8", text.as_bytes()].concat(),
            [b"\x82\xa2id", &id[..], b"\xa6cancel\xc3"].concat(),
        ] {
            expected.extend((body.len() as u32).to_be_bytes());
            expected.extend(body);
        }
    }
    let all = async {
        while bytes.len() < expected.len() {
            yield_now().await;
            bytes.extend(take(&mut there));
        }
    };
    timeout(LIMIT, all).await.unwrap();
    assert!(bytes == expected, "it is what was said, in that order");
}

/// An answer that comes from elsewhere, while the driver waits.
#[tokio::test]
async fn the_only_answer_is_given_at_once() {
    let (here, mut there) = BlockingStream::pair().unwrap();
    for end in [&here, &there] {
        end.set_nonblocking(true).unwrap();
    }
    let (sender, receiver) = oneshot::channel();
    let sender = std::sync::Mutex::new(Some(sender));
    let operations = Operations::new().streaming("give", move |_: Request, responder| {
        let _ = sender.lock().unwrap().take().unwrap().send(responder);
        std::future::ready(())
    });
    let socket = Socket::from(UnixStream::from_std(here).unwrap());
    let (_client, driver) = Driver::new(socket, Side::Accepted, operations, Settings::default());
    driver.spawn();
    std::io::Write::write_all(&mut there, b"\0\0\0\x0d\x82\xa2id\x02\xa2do\xa4give").unwrap();
    let responder = timeout(LIMIT, receiver).await.unwrap().unwrap();
    yield_now().await;
    responder.finish(&());
    assert_eq!(take(&mut there), b"\0\0\0\x0f\x82\xa2id\x02\xa8finished\xc3");
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
