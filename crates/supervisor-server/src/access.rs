//! Who may talk to a supervisor.

use std::collections::HashSet;

use async_container_protocol::{BoxFuture, Failure, Handler, Request, Responder, class, endpoint::Credentials};

/// The users and groups that are let in, beside the user of this process and root.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    pub(crate) users: HashSet<u32>,
    pub(crate) groups: HashSet<u32>,
}

impl Access {
    pub(crate) fn allows(&self, peer: &Credentials) -> bool {
        peer.user_id == 0
            || peer.user_id == rustix::process::geteuid().as_raw()
            || self.users.contains(&peer.user_id)
            || self.groups.contains(&peer.group_id)
    }
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
