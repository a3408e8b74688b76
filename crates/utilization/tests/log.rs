//! What is logged of metrics that nobody else can see. A test alone in its process: what is logged is decided for all threads.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use async_container_utilization::{CAPACITY, Registry};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn that_there_is_no_room_for_more_metrics_is_told_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        let registry = Registry::new();
        for number in 0..10_000 {
            registry.metric(&format!("metric_{number}")).increment();
        }
        registry.metric("no name").increment();
    });
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 2, "{}", text.lines().take(10).collect::<Vec<_>>().join("\n"));
    assert!(text.contains(&format!("metric=\"metric_{CAPACITY}\"")) && text.contains("all further ones"), "{text}");
    assert!(text.contains("metric=\"no name\""), "{text}");
}
