//! What `docs/parity.md` says: it has every item once, and the tests that it names are there.

use std::collections::BTreeMap;

use super::{File, Violation};

const PAGE: &str = "docs/parity.md";

/// The items that are numbered: the beginning of the number, and how many there are.
const NUMBERED: &[(&str, usize)] = &[
    ("A", 10),
    ("B", 25),
    ("C", 9),
    ("D", 7),
    ("E", 10),
    ("F", 10),
    ("G", 6),
    ("H", 4),
    ("I", 4),
    ("J", 5),
    ("K", 2),
    ("TRAP-", 22),
    ("RT-", 39),
    ("M", 12),
];

/// Those that are named after an issue of somebody else.
const ISSUES: &[&str] =
    &["async-container#14", "async-container#44", "async-container#74", "falcon#154", "falcon#188", "falcon#329"];

/// What may have become of an item, and whether a test is to show it.
const STATUSES: &[(&str, bool)] =
    &[("done", true), ("better", true), ("different on purpose", false), ("not yet", false), ("left out", false)];

/// What an item says that no test shows.
const NO_TEST: &str = "no test";

const COMPLETE: &str = "the page is complete: every item of the original stands in it once, with what became of it";
const HONEST: &str = "what the page names as shown by a test is shown by one";

pub(super) fn check(files: &[File]) -> Vec<Violation> {
    let Some(page) = files.iter().find(|file| file.path == PAGE) else {
        let what = "there is no such page".to_owned();
        return vec![Violation { path: PAGE.to_owned(), line: 1, what, why: COMPLETE }];
    };
    let mut violations = Vec::new();
    let mut lines: BTreeMap<String, Option<usize>> = numbers().map(|number| (number, None)).collect();
    for row in rows(&page.text) {
        match lines.get_mut(row.number) {
            None => violations.push(page.violation(row.line, format!("{} is no item", row.number), COMPLETE)),
            Some(Some(first)) => {
                let what = format!("{} stands here and in line {first}", row.number);
                violations.push(page.violation(row.line, what, COMPLETE));
            }
            Some(line) => *line = Some(row.line),
        }
        match STATUSES.iter().find(|(status, _)| *status == row.status) {
            None => {
                let what = format!("{} is {:?}, which is no status", row.number, row.status);
                violations.push(page.violation(row.line, what, COMPLETE));
            }
            Some((_, true)) if tests(row.shown).next().is_none() && !row.shown.to_lowercase().contains(NO_TEST) => {
                let what = format!("{} names no test, and does not say so", row.number);
                violations.push(page.violation(row.line, what, HONEST));
            }
            Some(_) => {}
        }
    }
    for (number, line) in &lines {
        if line.is_none() {
            violations.push(page.violation(1, format!("{number} is missing"), COMPLETE));
        }
    }
    for (index, line) in page.text.lines().enumerate() {
        for (path, name) in tests(line) {
            let found = files.iter().filter(|file| is_at(file, path) && has_test(&file.text, name)).count();
            let what = match found {
                1 => continue,
                0 => format!("there is no test {path}::{name}"),
                _ => format!("{path}::{name} may be any of {found} tests: name more of the path"),
            };
            violations.push(page.violation(index + 1, what, HONEST));
        }
    }
    violations
}

fn numbers() -> impl Iterator<Item = String> {
    let numbered =
        NUMBERED.iter().flat_map(|&(prefix, count)| (1..=count).map(move |index| format!("{prefix}{index}")));
    numbered.chain(ISSUES.iter().map(|issue| (*issue).to_owned()))
}

/// An item of the page.
struct Row<'page> {
    line: usize,
    number: &'page str,
    status: &'page str,
    shown: &'page str,
}

/// The rows of tables with four columns, without their heads.
fn rows(text: &str) -> impl Iterator<Item = Row<'_>> {
    text.lines().enumerate().filter_map(|(index, line)| {
        let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        match cells[..] {
            [number, _, status, shown] if number != "#" && !number.starts_with("---") => {
                Some(Row { line: index + 1, number, status, shown })
            }
            _ => None,
        }
    })
}

/// The tests that a line names, as `file.rs::test` within backquotes: the end of a path, and a function.
fn tests(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let literals = line.split('`').skip(1).step_by(2);
    literals.filter_map(|text| text.split_once("::")).filter(|(path, _)| path.ends_with(".rs") && *path != "file.rs")
}

fn is_at(file: &File, path: &str) -> bool {
    file.path.strip_suffix(path).is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

/// Whether there is a function of that name, marked as a test.
fn has_test(text: &str, name: &str) -> bool {
    let mut marked = false;
    text.lines().map(str::trim).any(|line| {
        let declared = line.split_once("fn ").and_then(|(_, rest)| rest.split_once('('));
        match declared {
            Some((declared, _)) => std::mem::take(&mut marked) && declared == name,
            None => {
                marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                false
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    /// A page that has every item, which are all done and say that no test shows it, with some lines of its own.
    fn found(own: &[(&str, &str)]) -> Vec<String> {
        let row = |number: String| {
            let own = own.iter().filter(|(it, _)| *it == number).map(|(_, text)| format!("{text}\n"));
            let own: String = own.collect();
            if own.is_empty() { format!("| {number} | what | done | *No test* |\n") } else { own }
        };
        let mut text = "| # | the original | here | where |\n| --- | --- | --- | --- |\n".to_owned();
        text.extend(numbers().map(row));
        let tests =
            "#[test]\nfn it_works() {}\nfn helper() {}\n#[tokio::test(start_paused = true)]\nasync fn it_waits() {}";
        let files =
            [file(PAGE, &text), file("tests/tests/one.rs", tests), file("a/two.rs", tests), file("b/two.rs", tests)];
        check(&files).iter().map(Violation::to_string).collect()
    }

    #[test]
    fn a_page_with_every_item_is_complete() {
        assert!(found(&[]).is_empty());
        assert_eq!(numbers().count(), 171);
        assert_eq!(check(&[]).len(), 1);
    }

    #[test]
    fn an_item_stands_once() {
        let twice = "| A1 | what | not yet | |\n| A1 | what | not yet | |";
        assert!(found(&[("A1", twice)])[0].starts_with("docs/parity.md:4: A1 stands here and in line 3 ("));
        assert!(found(&[("A1", "| A0 | what | not yet | |")]).iter().any(|line| line.contains(":3: A0 is no item")));
        assert!(found(&[("RT-39", "text")])[0].starts_with("docs/parity.md:1: RT-39 is missing ("));
    }

    #[test]
    fn an_item_has_a_status() {
        assert!(found(&[("A1", "| A1 | what | perhaps | |")])[0].contains(":3: A1 is \"perhaps\", which is no status"));
        assert!(found(&[("A1", "| A1 | what | left out | why |")]).is_empty());
    }

    #[test]
    fn what_is_done_is_shown_or_says_that_it_is_not() {
        assert!(found(&[("A1", "| A1 | what | done | `Type` |")])[0].contains(":3: A1 names no test"));
        assert!(found(&[("A1", "| A1 | what | better | `one.rs::it_works` |")]).is_empty());
    }

    #[test]
    fn tests_that_are_named_exist() {
        let with = |test: &str| found(&[("A1", &format!("| A1 | what | done | `Type`, `{test}` |"))]);
        for test in ["one.rs::it_works", "tests/one.rs::it_waits", "a/two.rs::it_works"] {
            assert!(with(test).is_empty(), "{test}");
        }
        for test in ["one.rs::it_fails", "one.rs::helper", "ne.rs::it_works", "three.rs::it_works"] {
            assert!(with(test)[0].starts_with(&format!("docs/parity.md:3: there is no test {test} (")), "{test}");
        }
        assert!(with("two.rs::it_works")[0].contains("may be any of 2 tests"));
    }
}
