//! Tests that need a Python.

use std::{
    env,
    process::{Command, Stdio},
};

/// Set by whoever knows that there is a Python with all of `requirements.txt`: `cargo xtask test`, where it could install it.
const REQUIRED: &str = "ASYNC_CONTAINER_TESTS_PYTHON";

/// Whether there is a `python3` that can do this statement, such as an import. If not, it is printed that the test is skipped,
/// and why.
///
/// # Panics
///
/// If there must be one.
pub fn has_python(statement: &str) -> bool {
    let output = Command::new("python3").args(["-c", statement]).stdin(Stdio::null()).output();
    let reason = match output {
        Ok(output) if output.status.success() => return true,
        Ok(_) => format!("this python3 cannot `{statement}`"),
        Err(error) => format!("there is no python3: {error}"),
    };
    assert!(env::var_os(REQUIRED).is_none(), "{reason}, though {REQUIRED} says that it can");
    eprintln!("skipped: {reason}");
    false
}
