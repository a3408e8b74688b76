//! The protocol alone: a server and a client of one's own over a Unix socket: `cargo run --example rpc`
//!
//! Calls with one answer, with many, and one that is given up. Both sides are in this process to keep it short; neither needs
//! anything of the rest of the project. In the facade it is `protocol`, by itself the crate `async-container-protocol`.

use std::collections::BTreeMap;
use std::time::Duration;

use async_container_supervisor::BoxError;
use async_container_supervisor::protocol::{Client, Driver, Failure, Operations, Settings, Side};
use serde::Deserialize;
use tokio::net::UnixListener;

const SOCKET: &str = "rpc.ipc";

#[derive(Deserialize)]
struct Sum {
    numbers: Vec<i64>,
}

fn operations() -> Operations {
    Operations::new()
        .typed("sum", |Sum { numbers }| async move { Ok::<_, Failure>(fields("sum", numbers.iter().sum())) })
        .streaming("count", |request, responder| async move {
            let to = request.get::<i64>("to").ok().flatten().unwrap_or(3);
            for number in 1..=to {
                // Waits while the caller does not read, and fails once it has given the call up.
                if responder.send(&fields("number", number)).await.is_err() {
                    println!("the caller has heard enough");
                    return;
                }
            }
            responder.finish(&());
        })
}

fn fields(name: &'static str, value: i64) -> BTreeMap<&'static str, i64> {
    BTreeMap::from([(name, value)])
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let _ = std::fs::remove_file(SOCKET);
    let listener = UnixListener::bind(SOCKET)?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (_client, driver) = Driver::new(stream, Side::Accepted, operations(), Settings::default());
            driver.spawn();
        }
    });

    let client = Client::connect(SOCKET).await?;
    let answer = client.call("sum", &BTreeMap::from([("numbers", [1, 2, 39])])).await?;
    println!("the sum is {}", answer.get::<i64>("sum")?.unwrap_or_default());

    let mut call = client.call("count", &fields("to", i64::MAX));
    while let Some(response) = call.next().await? {
        let number = response.get::<i64>("number")?.unwrap_or_default();
        println!("heard {number}");
        if number == 3 {
            break;
        }
    }
    // To drop a call is to give it up: the other side is told.
    drop(call);

    match client.call("dance", &()).timeout(Duration::from_secs(1)).await {
        Ok(_) => println!("it can dance"),
        Err(error) => println!("it cannot dance: {error}"),
    }
    std::fs::remove_file(SOCKET)?;
    Ok(())
}
