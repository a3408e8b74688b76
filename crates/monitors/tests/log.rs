//! What is logged of processes. A test alone in its process: what is logged is decided for all threads.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Instant,
};

use async_container_monitors::{Monitor, ProcessMonitor};

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
fn the_event_of_a_process_has_every_figure_of_its_status() {
    let mut monitor = ProcessMonitor::new().root_process_id(std::process::id());
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || monitor.check(Instant::now()));
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let status = serde_json::to_value(monitor.status()).unwrap();
    let process = &status["processes"][0];
    let figures = process.as_object().unwrap().iter().filter(|(name, _)| *name != "memory");
    // What is resident is read twice: the event has what counts, that of all processes.
    let details = process["memory"].as_object().unwrap().iter().filter(|(name, _)| *name != "resident_size");

    for (name, value) in figures.chain(details) {
        assert!(text.contains(&format!(" {name}={value}")), "{name}={value} is missing: {text}");
    }
}
