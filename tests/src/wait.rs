//! Waiting for a condition that nothing announces.

use std::{
    io, thread,
    time::{Duration, Instant},
};

/// The pause between two looks. `/proc` and foreign files notify nobody, so this is the resolution of a wait.
const INTERVAL: Duration = Duration::from_millis(1);

/// Calls `probe` every millisecond until it gives a value. After `limit` the wait fails with
/// [`io::ErrorKind::TimedOut`], naming `what` was waited for; an error of `probe` ends it at once.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        // The clock is read before the look, so that there is one more look after a pause that took too long.
        let late = Instant::now() >= deadline;
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if late {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("waited {} s in vain for {what}", limit.as_secs_f64()),
            ));
        }
        thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_what_the_probe_found() {
        let mut looks = 0;
        let found = wait_for("three looks", Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.unwrap(), 3);
    }

    #[test]
    fn a_wait_in_vain_names_what_it_was_for() {
        let error = wait_for::<()>("nothing", Duration::from_millis(5), || Ok(None)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().ends_with("for nothing"), "{error}");
    }
}
