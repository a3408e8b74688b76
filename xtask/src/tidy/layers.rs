//! Which crate may depend on which.

use std::path::Path;

use super::{Violation, within};
use crate::workspace::{Dependency, Package};

/// The crates of the workspace, and the siblings that each may depend on. Dependencies of tests count like the
/// others, but for [`OTHER_END`]: a test that needs two crates that do not know each other belongs above both, in `tests/`.
const LAYERS: &[(&str, &[&str])] = &[
    ("async-container", &[]),
    ("async-container-protocol", &[]),
    ("async-container-utilization", &[]),
    ("async-container-diagnostics", &[]),
    ("async-container-monitors", &["async-container-utilization"]),
    ("async-container-metrics", &["async-container-monitors"]),
    ("async-container-supervisor-server", &["async-container-protocol", "async-container-monitors"]),
    (
        "async-container-supervisor-worker",
        &["async-container-protocol", "async-container-diagnostics", "async-container-utilization"],
    ),
    ("async-container-supervisor-client", &["async-container-protocol"]),
    (
        "async-container-supervisor",
        &[
            "async-container",
            "async-container-protocol",
            "async-container-utilization",
            "async-container-diagnostics",
            "async-container-metrics",
            "async-container-monitors",
            "async-container-supervisor-server",
            "async-container-supervisor-worker",
            "async-container-supervisor-client",
        ],
    ),
    (
        "async-container-supervisor-cli",
        &["async-container-protocol", "async-container-supervisor-client", "async-container-diagnostics"],
    ),
    ("async-container-supervisor-examples", &["async-container-supervisor"]),
    (
        "async-container-supervisor-tests",
        &[
            "async-container",
            "async-container-protocol",
            "async-container-utilization",
            "async-container-diagnostics",
            "async-container-metrics",
            "async-container-monitors",
            "async-container-supervisor-server",
            "async-container-supervisor-worker",
            "async-container-supervisor-client",
            "async-container-supervisor",
        ],
    ),
    ("xtask", &["async-container-protocol", "async-container-supervisor-tests"]),
];

/// What a crate may depend on for its tests and the examples in its documentation: the other end of its conversation.
const OTHER_END: &[(&str, &str)] = &[("async-container-supervisor-worker", "async-container-supervisor-server")];

/// Dependencies that must be a choice of the one who depends on the crate.
const OPTIONAL: &[(&str, &str)] = &[
    ("async-container-monitors", "async-container-utilization"),
    ("async-container-supervisor-worker", "async-container-diagnostics"),
    ("async-container-supervisor-worker", "async-container-utilization"),
];

/// The crate whose helpers xtask uses, too, and the only sibling that those may depend on. Its tests may use all.
const HELPERS: (&str, &str) = ("async-container-supervisor-tests", "async-container-protocol");

/// A dependency on the trait alone.
const TRAIT_ONLY: (&str, &str) = ("async-container-supervisor-server", "async-container-monitors");

/// The libraries of a format or a source, and the only crate that may depend on them.
const OWNED: &[(&str, &str)] = &[
    ("rmp", "async-container-protocol"),
    ("rmp-serde", "async-container-protocol"),
    ("rmpv", "async-container-protocol"),
    ("sysinfo", "async-container-monitors"),
];

const WHY_LAYERS: &str =
    "the layers of xtask/src/tidy/layers.rs: lower crates do not know higher ones, nor siblings each other";

pub(super) fn check(packages: &[Package], root: &Path) -> Vec<Violation> {
    let mut violations = Vec::new();
    for package in packages {
        let mut report = |what: String, why| {
            violations.push(Violation { path: within(root, &package.manifest_path), line: 1, what, why });
        };
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == package.name) else {
            report(format!("{} has no layer", package.name), WHY_LAYERS);
            continue;
        };
        for dependency in &package.dependencies {
            let sibling = packages.iter().any(|package| package.name == dependency.name);
            let pair = (package.name.as_str(), dependency.name.as_str());
            let other_end = OTHER_END.contains(&pair) && dependency.kind.as_deref() == Some("dev");
            if sibling && !other_end && !allowed.contains(&dependency.name.as_str()) {
                report(format!("{} depends on {}", package.name, dependency.name), WHY_LAYERS);
            }
            if sibling && package.name == HELPERS.0 && dependency.name != HELPERS.1 && dependency.kind.is_none() {
                report(
                    format!("{} depends on {} not for its tests only", package.name, dependency.name),
                    "xtask is built from its helpers and must not need all crates: make it a dev-dependency, and programs \
                     that tests start an example",
                );
            }
            if OPTIONAL.contains(&pair) && !dependency.optional {
                report(
                    format!("{} depends on {} without being asked to", package.name, dependency.name),
                    "it must be an optional dependency, turned on by a feature",
                );
            }
            if pair == TRAIT_ONLY && !has_no_features(dependency) {
                report(
                    format!("{} turns features of {} on", package.name, dependency.name),
                    "the server knows the trait Monitor, but no monitor",
                );
            }
            if let Some((library, owner)) = OWNED.iter().find(|(library, _)| *library == dependency.name)
                && *owner != package.name
            {
                report(format!("{} depends on {library}", package.name), "only one crate knows that format or source");
            }
        }
    }
    violations
}

fn has_no_features(dependency: &Dependency) -> bool {
    !dependency.uses_default_features && dependency.features.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[Dependency]) -> Package {
        Package {
            name: name.to_owned(),
            manifest_path: format!("/root/{name}/Cargo.toml").into(),
            dependencies: dependencies.to_vec(),
            targets: Vec::new(),
            features: Default::default(),
        }
    }

    fn dependency(name: &str) -> Dependency {
        Dependency {
            name: name.to_owned(),
            kind: None,
            optional: false,
            uses_default_features: true,
            features: Vec::new(),
        }
    }

    fn found(packages: &[Package]) -> Vec<String> {
        check(packages, Path::new("/root")).iter().map(Violation::to_string).collect()
    }

    #[test]
    fn every_layer_names_crates_that_have_one() {
        for (name, allowed) in LAYERS {
            for other in *allowed {
                assert!(LAYERS.iter().any(|(known, _)| known == other), "{name} may depend on an unknown {other}");
            }
        }
    }

    #[test]
    fn a_dependency_upwards_is_found() {
        let packages = [
            package("async-container", &[dependency("async-container-protocol"), dependency("libc")]),
            package("async-container-protocol", &[]),
        ];
        let found = found(&packages);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("async-container/Cargo.toml:1: async-container depends on async-container-protocol")
        );
    }

    #[test]
    fn a_new_crate_must_be_given_a_layer() {
        assert!(found(&[package("newcomer", &[])])[0].contains("newcomer has no layer"));
    }

    #[test]
    fn the_server_knows_the_trait_alone() {
        let monitors = package("async-container-monitors", &[]);
        let trait_alone = Dependency { uses_default_features: false, ..dependency("async-container-monitors") };
        assert!(found(&[package("async-container-supervisor-server", &[trait_alone]), monitors.clone()]).is_empty());
        let all = dependency("async-container-monitors");
        assert_eq!(found(&[package("async-container-supervisor-server", &[all]), monitors]).len(), 1);
    }

    #[test]
    fn diagnostics_of_workers_are_a_choice() {
        let worker = package("async-container-supervisor-worker", &[dependency("async-container-diagnostics")]);
        assert!(found(&[worker, package("async-container-diagnostics", &[])])[0].contains("without being asked"));
    }

    #[test]
    fn helpers_of_tests_do_not_need_what_is_tested() {
        let tested = dependency("async-container-supervisor");
        let for_tests = Dependency { kind: Some("dev".to_owned()), ..tested.clone() };
        let facade = package("async-container-supervisor", &[]);
        let tests = |dependency| found(&[package("async-container-supervisor-tests", &[dependency]), facade.clone()]);
        assert!(tests(tested)[0].contains("not for its tests only"));
        assert!(tests(for_tests).is_empty());
    }

    #[test]
    fn message_pack_belongs_to_the_protocol() {
        assert_eq!(found(&[package("async-container", &[dependency("rmpv")])]).len(), 1);
        assert!(found(&[package("async-container-protocol", &[dependency("rmpv")])]).is_empty());
    }
}
