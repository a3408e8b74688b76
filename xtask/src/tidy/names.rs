//! Which files may name what.

use super::{File, Violation, source};

/// The files with `unsafe` in them. All other crates than theirs forbid it altogether; see `crates.rs`.
pub(super) const UNSAFE: &[&str] = &[
    "crates/container/src/sys/",
    "crates/diagnostics/src/sys/",
    "crates/supervisor-server/src/sys/",
    "crates/utilization/src/sys/",
    "tests/examples/acs-window.rs",
    "tests/examples/empty_handler/mod.rs",
];

struct Rule {
    names: &'static [&'static str],
    /// Where the rule holds: beginnings of paths.
    within: &'static [&'static str],
    /// Where it does not.
    except: &'static [&'static str],
    /// Where one file may break it: the beginning of its path.
    one_file: Option<&'static str>,
    /// Whether it holds for tests and benchmarks, too.
    tests: bool,
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        names: &["unsafe"],
        within: &[""],
        except: UNSAFE,
        one_file: None,
        tests: true,
        why: "unsafe code stands in few, named files: xtask/src/tidy/names.rs has the list",
    },
    Rule {
        names: &["todo!", "unimplemented!", "dbg!"],
        within: &[""],
        except: &[],
        one_file: None,
        tests: true,
        why: "it is for code that is not finished",
    },
    Rule {
        names: &["rmp", "rmpv", "rmp_serde"],
        within: &[""],
        except: &["crates/protocol/"],
        one_file: None,
        tests: true,
        why: "only the protocol knows MessagePack",
    },
    Rule {
        names: &["serde_json"],
        within: &["crates/"],
        except: &[
            "crates/protocol/",
            "crates/container/src/notify",
            "crates/client/",
            "crates/cli/",
            "crates/diagnostics/src/output",
            "crates/diagnostics/src/report",
        ],
        one_file: None,
        tests: false,
        why: "only the protocol, the notify messages, the client, the command line and reports know JSON",
    },
    Rule {
        names: &["sysinfo"],
        within: &[""],
        except: &[],
        one_file: Some("crates/monitors/src/"),
        tests: true,
        why: "one file of the monitors asks sysinfo, so that it can be replaced there",
    },
    Rule {
        names: &[
            "pidfd_send_signal",
            "kill_process",
            "kill_process_group",
            "kill_current_process_group",
            "libc::kill",
            "killpg",
            "tgkill",
            "tkill",
            ".start_kill",
        ],
        within: &["crates/"],
        except: &["crates/container/src/sys/"],
        one_file: Some("crates/supervisor-server/src/"),
        tests: false,
        why: "every signal goes out through one module, by pidfd",
    },
    Rule {
        names: &[
            "Instant::now",
            "SystemTime::now",
            ".elapsed",
            "clock_gettime",
            "std::io",
            "std::fs",
            "std::net",
            "std::os",
            "std::thread",
            "tokio",
            "rustix",
            "libc",
        ],
        within: &["crates/container/src/lifecycle", "crates/protocol/src/connection"],
        except: &[],
        one_file: None,
        tests: false,
        why: "the state machines do no input or output and read no clock, so that tests can run them in any order",
    },
    Rule {
        names: &["TcpListener::bind", "UdpSocket::bind", "TcpSocket"],
        within: &["crates/"],
        except: &["crates/container/src/listener"],
        one_file: None,
        tests: false,
        why: "nothing listens on a network address unless it was asked to",
    },
];

pub(super) fn check(files: &[File]) -> Vec<Violation> {
    RULES.iter().flat_map(|rule| rule.check(files)).collect()
}

impl Rule {
    fn check(&self, files: &[File]) -> Vec<Violation> {
        let mut violations = Vec::new();
        let mut chosen: Option<&str> = None;
        for file in files.iter().filter(|file| file.is_rust() && self.holds_for(&file.path)) {
            let names = source::names(&file.text);
            // Benchmarks are tests of another kind.
            let in_test = ["/tests/", "/benches/"].iter().any(|folder| file.path.contains(folder));
            let broken = names.iter().filter(|name| self.tests || !(in_test || name.in_test)).find_map(|name| {
                let forbidden = self.names.iter().find(|forbidden| name.has(forbidden))?;
                Some((name.line, forbidden))
            });
            let Some((line, forbidden)) = broken else {
                continue;
            };
            let may = self.one_file.is_some_and(|place| file.path.starts_with(place));
            match chosen {
                None if may => chosen = Some(&file.path),
                Some(first) if may => {
                    violations.push(file.violation(
                        line,
                        format!("`{forbidden}` is named here, and in {first}"),
                        self.why,
                    ));
                }
                _ => violations.push(file.violation(line, format!("`{forbidden}` is named"), self.why)),
            }
        }
        violations
    }

    fn holds_for(&self, path: &str) -> bool {
        let begins = |place: &&str| path.starts_with(place);
        self.within.iter().any(begins) && !self.except.iter().any(begins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<File> =
            files.iter().map(|&(path, text)| File { path: path.to_owned(), text: text.to_owned() }).collect();
        check(&files).iter().map(Violation::to_string).collect()
    }

    #[test]
    fn unsafe_stands_in_listed_files() {
        let text = "fn a() { unsafe { b() } }";
        assert!(found(&[("crates/container/src/sys/fork.rs", text)]).is_empty());
        assert!(
            found(&[("crates/container/src/spec.rs", text)])[0].starts_with("crates/container/src/spec.rs:1: `unsafe`")
        );
        assert!(found(&[("crates/container/src/spec.rs", "#![forbid(unsafe_code)] // no unsafe here")]).is_empty());
    }

    #[test]
    fn one_file_of_the_monitors_names_sysinfo() {
        let text = "\nuse sysinfo::System;";
        assert!(found(&[("crates/monitors/src/sample.rs", text)]).is_empty());
        let two = found(&[("crates/monitors/src/memory.rs", text), ("crates/monitors/src/sample.rs", text)]);
        assert_eq!(two.len(), 1);
        assert!(two[0].starts_with(
            "crates/monitors/src/sample.rs:2: `sysinfo` is named here, and in crates/monitors/src/memory.rs"
        ));
        assert_eq!(found(&[("crates/cli/src/main.rs", text)]).len(), 1);
    }

    #[test]
    fn signals_go_out_through_one_module() {
        let text = "use rustix::process::{Signal, pidfd_send_signal};";
        assert!(
            found(&[("crates/container/src/sys/pidfd.rs", text), ("crates/supervisor-server/src/signal.rs", text)])
                .is_empty()
        );
        assert_eq!(found(&[("crates/container/src/process.rs", text)]).len(), 1);
        assert_eq!(found(&[("crates/monitors/src/memory.rs", "child.start_kill()?")]).len(), 1);
        assert!(found(&[("tests/src/proc.rs", text)]).is_empty());
    }

    #[test]
    fn state_machines_do_no_input_or_output() {
        for text in ["use std::{io::Read, fmt};", "let now = Instant::now();", "tokio::spawn(x)", "then.elapsed()"] {
            assert_eq!(found(&[("crates/container/src/lifecycle.rs", text)]).len(), 1, "{text}");
            assert_eq!(found(&[("crates/protocol/src/connection/calls.rs", text)]).len(), 1, "{text}");
            assert!(found(&[("crates/container/src/container.rs", text)]).is_empty(), "{text}");
        }
        let test = "use std::time::Instant;\n#[cfg(test)]\nmod tests { fn a() { Instant::now(); } }";
        assert!(found(&[("crates/container/src/lifecycle.rs", test)]).is_empty());
    }

    #[test]
    fn formats_are_known_where_they_belong() {
        assert!(found(&[("crates/protocol/src/frame.rs", "rmp::encode::write_map_len(x)")]).is_empty());
        assert_eq!(found(&[("crates/supervisor-server/src/session.rs", "rmpv::Value::Nil")]).len(), 1);
        assert!(found(&[("crates/container/src/notify/pipe.rs", "serde_json::from_slice(x)")]).is_empty());
        assert_eq!(found(&[("crates/container/src/spec.rs", "serde_json::from_slice(x)")]).len(), 1);
    }

    #[test]
    fn tests_may_use_what_they_need() {
        let text = "serde_json::from_slice(x)";
        assert!(found(&[("crates/monitors/tests/memory.rs", text)]).is_empty());
    }

    #[test]
    fn unfinished_code_is_found_in_tests_too() {
        assert_eq!(found(&[("examples/simple.rs", "#[cfg(test)] fn a() { todo!() }")]).len(), 1);
        assert!(found(&[("examples/simple.rs", "// todo!\nlet todo = \"dbg!\";")]).is_empty());
    }
}
