//! `acs`: asks a running supervisor, and tells it what to do.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    acs::main()
}
