use std::{io::Write, process::Command, process::Stdio};

use crate::application::{Application, Ended};

#[test]
fn no_supervisor_is_needed_for_what_does_not_ask_one() {
    let application = Application::absent();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = application.acs(["completions", shell]);
        for command in ["memory-sample", "thread-dump", "completions"] {
            assert!(ended.text().contains(command), "{shell} does not complete {command}");
        }
    }
    application.acs(["completions", "csh"]).error(2);
    assert!(application.acs(["man"]).text().contains(".TH acs 1"));
    assert_eq!(application.acs(["--version"]).text(), format!("acs {}\n", env!("CARGO_PKG_VERSION")));
    assert!(application.acs(["cpu-profile", "--help"]).text().contains("--frequency"));
}

#[test]
fn bash_understands_its_completions() {
    let script = Ended::new(Application::absent().command(["completions", "bash"]).output().unwrap()).text().to_owned();
    let ask =
        "COMP_WORDS=(acs mem) COMP_CWORD=1 COMP_LINE='acs mem' COMP_POINT=7; _acs acs mem acs; echo ${COMPREPLY[@]}";
    let Ok(mut bash) = Command::new("bash").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
        eprintln!("skipped: there is no bash");
        return;
    };
    bash.stdin.take().unwrap().write_all(format!("{script}\n{ask}\n").as_bytes()).unwrap();
    let output = bash.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "memory-sample memory-dump\n");
}
