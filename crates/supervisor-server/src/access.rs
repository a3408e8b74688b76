//! Who may talk to a supervisor, and about what.

use std::{collections::HashMap, fmt};

use async_container_protocol::{BoxFuture, Failure, Handler, Request, Responder, class, endpoint::Credentials};

use crate::forward::Forward;

/// What someone may do who is neither root nor the user that the supervisor runs as.
///
/// `ping` takes any role, and each but [`Work`](Role::Work) includes [`Observe`](Role::Observe).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Look: `status`, `children`, `ready` and `subscribe`, and to `ping` workers.
    Observe,
    /// Have things done: `restart`, `replace`, and operations of the application and its workers.
    Operate,
    /// Look into workers: the samples, profiles and dumps that they can make, which may hold what they keep in confidence.
    Diagnose,
    /// Be a worker: `register`.
    Work,
}

impl Role {
    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Observe => "observe",
            Self::Operate => "operate",
            Self::Diagnose => "diagnose",
            Self::Work => "work",
        })
    }
}

/// The roles that someone has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Roles(u8);

impl Roles {
    const ALL: Self = Self(u8::MAX);

    fn add(&mut self, role: Role) {
        self.0 |= role.bit();

        if role != Role::Work {
            self.0 |= Role::Observe.bit();
        }
    }

    fn join(&mut self, other: Option<&Self>) {
        self.0 |= other.map_or(0, |other| other.0);
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn include(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }
}

/// Diagnostics of workers. They are known here by name, because who may see what a worker holds in memory must not depend on
/// whether the application thought of it.
pub(crate) const DIAGNOSTICS: [&str; 9] = [
    "memory_sample",
    "memory_dump",
    "thread_dump",
    "scheduler_dump",
    "allocator_profile_start",
    "allocator_profile_stop",
    "garbage_profile_start",
    "garbage_profile_stop",
    "cpu_profile",
];

/// The users and groups that are let in, beside the user of this process and root.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    users: HashMap<u32, Roles>,
    groups: HashMap<u32, Roles>,
    required: HashMap<String, Role>,
}

impl Access {
    pub(crate) fn allow_user(&mut self, user_id: u32, role: Role) {
        self.users.entry(user_id).or_default().add(role);
    }

    pub(crate) fn allow_group(&mut self, group_id: u32, role: Role) {
        self.groups.entry(group_id).or_default().add(role);
    }

    /// Whether anybody is let in beside the user of this process and root.
    pub(crate) fn allows_others(&self) -> bool {
        !self.users.is_empty() || !self.groups.is_empty()
    }

    pub(crate) fn require(&mut self, operation: String, role: Role) {
        self.required.insert(operation, role);
    }

    /// What a peer may do. Its supplementary groups are asked for only where they could matter.
    pub(crate) fn roles(&self, peer: &Credentials, supplementary_groups: impl FnOnce() -> Vec<u32>) -> Roles {
        if peer.user_id == 0 || peer.user_id == rustix::process::geteuid().as_raw() {
            return Roles::ALL;
        }

        let mut roles = Roles::default();
        roles.join(self.users.get(&peer.user_id));
        roles.join(self.groups.get(&peer.group_id));

        if !self.groups.is_empty() {
            supplementary_groups().iter().for_each(|group| roles.join(self.groups.get(group)));
        }

        roles
    }

    /// The role that a call takes; `None` if any will do.
    pub(crate) fn required(&self, request: &Request, forward: Option<&Forward>) -> Option<Role> {
        // What is said of the operation that is to be forwarded counts. A call that names none fails anyway.
        if let Some(forward) = forward {
            return Some(forward.operation().map_or(Role::Operate, |operation| self.required_of_worker(operation)));
        }

        match request.operation() {
            "ping" => None,
            "status" | "children" | "ready" | "subscribe" => Some(Role::Observe),
            "restart" | "replace" => Some(Role::Operate),
            "register" => Some(Role::Work),
            operation => Some(self.required.get(operation).copied().unwrap_or(Role::Operate)),
        }
    }

    fn required_of_worker(&self, operation: &str) -> Role {
        match self.required.get(operation) {
            Some(role) => *role,
            None if operation == "ping" => Role::Observe,
            None if DIAGNOSTICS.contains(&operation) => Role::Diagnose,
            None => Role::Operate,
        }
    }
}

/// Why a call is not made.
pub(crate) fn refused(peer: &Credentials, request: &Request, role: Role) -> Failure {
    let message = format!("user {} may not do that: '{}' takes the role '{role}'", peer.user_id, request.operation());
    Failure::new(class::PERMISSION_DENIED, message)
}

/// Answers someone who is not let in. It waits for a call, because only then is it known in which framing to answer, and
/// to what.
pub(crate) struct Denied(pub(crate) Credentials);

impl Handler for Denied {
    fn call(&self, _: Request, responder: Responder) -> Option<BoxFuture> {
        let message = format!("user {} may not use this supervisor: ask for it to be allowed", self.0.user_id);
        let peer = responder.peer();
        responder.fail(Failure::new(class::PERMISSION_DENIED, message));
        peer.close();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRANGER: Credentials = Credentials { process_id: Some(7), user_id: 4_000_000, group_id: 4_000_001 };

    fn roles(access: &Access, groups: &[u32]) -> Vec<Role> {
        let roles = access.roles(&STRANGER, || groups.to_vec());
        let all = [Role::Observe, Role::Operate, Role::Diagnose, Role::Work];
        all.into_iter().filter(|role| roles.include(*role)).collect()
    }

    #[test]
    fn roles_add_up() {
        let mut access = Access::default();
        assert_eq!(roles(&access, &[1]), []);
        access.allow_user(STRANGER.user_id, Role::Work);
        assert_eq!(roles(&access, &[]), [Role::Work], "who works does not look at others");
        access.allow_group(STRANGER.group_id, Role::Operate);
        assert_eq!(roles(&access, &[]), [Role::Observe, Role::Operate, Role::Work]);
        access.allow_group(5, Role::Diagnose);
        assert_eq!(roles(&access, &[4, 5]), [Role::Observe, Role::Operate, Role::Diagnose, Role::Work]);
        assert!(access.roles(&Credentials { user_id: 0, ..STRANGER }, Vec::new) == Roles::ALL);
    }

    #[test]
    fn groups_are_not_asked_for_in_vain() {
        let access = Access::default();
        assert!(access.roles(&STRANGER, || panic!("no group is allowed")).is_empty());
    }
}
