//! `acs man`: the manual page, all commands in one.

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::{
    arguments::Arguments,
    error::{Error, Result},
    output,
};

/// What the page says beyond the options, in roff: a heading, and the text below.
const SECTIONS: &str = include_str!("man.roff");

pub(super) fn run() -> Result {
    output::write(&page().map_err(Error::Io)?)
}

fn page() -> std::io::Result<Vec<u8>> {
    let mut command = Arguments::command();
    // Fills in what commands inherit, such as their names in full.
    command.build();
    let man = Man::new(command.clone()).section("1");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    page.extend(b".SH COMMANDS\n");

    for command in command.get_subcommands() {
        page.extend(subsection(command)?.into_bytes());
    }

    page.extend(SECTIONS.as_bytes());
    Ok(page)
}

/// A command below a heading of its own, without the options that all of them have.
fn subsection(command: &Command) -> std::io::Result<String> {
    let name = command.get_name().to_owned();
    let command = command
        .clone()
        .mut_args(|argument| if argument.is_global_set() { argument.hide(true) } else { argument })
        .disable_help_flag(true)
        .disable_version_flag(true);
    let has_options = command.get_arguments().any(|argument| !argument.is_hide_set());
    let man = Man::new(command);
    let mut text = Vec::new();
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;

    if has_options {
        man.render_options_section(&mut text)?;
    }

    man.render_extra_section(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines = text.lines().map(|line| match line.strip_prefix(".SH ") {
        Some("SYNOPSIS") => format!(".SS {name}"),
        Some(_) => ".PP".to_owned(),
        None => line.to_owned(),
    });
    Ok(lines.collect::<Vec<_>>().join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_place() {
        let page = String::from_utf8(page().unwrap()).unwrap();

        for command in Arguments::command().get_subcommands() {
            assert!(page.contains(&format!("\n.SS {}\n", command.get_name())), "{}", command.get_name());
        }

        for heading in ["NAME", "SYNOPSIS", "OPTIONS", "COMMANDS", "\"EXIT STATUS\"", "ENVIRONMENT", "JSON", "EXAMPLES"]
        {
            assert!(page.contains(&format!("\n.SH {heading}\n")), "{heading}");
        }
    }
}
