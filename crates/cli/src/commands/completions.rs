//! `acs completions`: what a shell needs to complete the command line.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{arguments::Arguments, error::Result, output};

pub(super) fn run(shell: Shell) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "acs", &mut script);
    output::write(&script)
}
