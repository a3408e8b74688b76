//! One connection.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll};

use async_container_protocol::{
    BoxFuture, Driver, Handler, Request, Responder, Settings, Side, Socket, endpoint::Credentials,
};
use tokio::{net::UnixStream, sync::OwnedSemaphorePermit, time::timeout};
use uuid::Uuid;

use crate::{
    access::{Denied, Roles, refused},
    audit::Called,
    complaints::{Complaint, Told},
    forward::Forward,
    operation::Supervisor,
    process::{Peer, supplementary_groups},
};

/// How long someone who is not let in has to make the call that is refused.
const DENIAL: std::time::Duration = std::time::Duration::from_secs(5);

/// One connection, as far as operations have to know it.
pub(crate) struct Session {
    pub(crate) id: Arc<str>,
    pub(crate) peer: Peer,
    credentials: Credentials,
    roles: Roles,
    pub(crate) supervisor: Arc<Supervisor>,
}

impl Session {
    /// Serves a connection until it ends. It gives up that it is a newcomer once what it sent at first has been looked at.
    pub(crate) async fn serve(
        stream: UnixStream,
        newcomer: Option<OwnedSemaphorePermit>,
        supervisor: Arc<Supervisor>,
        settings: Settings,
    ) {
        let credentials = match Credentials::of(&stream) {
            Ok(credentials) => credentials,
            Err(error) => {
                tracing::warn!(%error, "closed a connection: the kernel does not say whose it is");
                return;
            }
        };

        let roles = supervisor.access.roles(&credentials, || supplementary_groups(&stream, &credentials));
        let mut socket = Socket::from(stream);

        if roles.is_empty() {
            // Whom nothing is done for holds up nobody.
            drop(newcomer);
            supervisor.complain(Complaint::NotLetIn, &credentials, |Told { suppressed }| {
                let Credentials { user_id, process_id, .. } = credentials;
                tracing::warn!(user_id, process_id, suppressed, "refused a connection");
            });
            let (_client, driver) = Driver::new(socket, Side::Accepted, Denied(credentials), settings);
            let _ = timeout(DENIAL, driver).await;
            return;
        }

        let peer = match socket.downgrade() {
            Ok(socket) => Peer::of(socket, &credentials),
            Err(error) => {
                tracing::warn!(%error, "closed a connection: it could not be watched");
                return;
            }
        };

        let id = Uuid::new_v4().to_string().into();
        let session = Arc::new(Self { id, peer, credentials, roles, supervisor: supervisor.clone() });
        // Whatever ends the session, be it that this future is dropped, the worker is forgotten with it.
        let _registration = Registration(session.clone());
        let (_client, mut driver) = Driver::new(socket, Side::Accepted, session, settings);

        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut driver).poll(cx))).await;
        drop(newcomer);

        let result = match first {
            Poll::Ready(result) => result,
            Poll::Pending => driver.await,
        };

        if let Err(error) = result {
            supervisor.complain(Complaint::Broken, &credentials, |Told { suppressed }| {
                let Credentials { user_id, process_id, .. } = credentials;
                tracing::warn!(%error, user_id, process_id, suppressed, "closed a connection");
            });
        }
    }
}

impl Handler for Session {
    fn call(&self, request: Request, mut responder: Responder) -> Option<BoxFuture> {
        let supervisor = &self.supervisor;
        supervisor.statistics.attend(request.operation(), &mut responder);
        let forward = Forward::of(&request);
        let required = supervisor.access.required(&request, forward.as_ref());
        let called = Called { request: &request, forward: forward.as_ref(), peer: &self.credentials };

        if let Some(role) = required.filter(|role| !self.roles.include(*role)) {
            supervisor.complain(Complaint::NotPermitted, &self.credentials, |told| {
                called.refused(role, told, &supervisor.registry);
            });
            responder.fail(refused(&self.credentials, &request, role));
            return None;
        }

        called.attend(&mut responder, required, &supervisor.registry);

        if let Some(operation) = forward.as_ref().and_then(Forward::operation) {
            supervisor.statistics.attend_forwarded(operation, &mut responder);
        }

        match forward {
            Some(forward) => {
                supervisor.forward(&forward, responder);
                None
            }
            None => supervisor.call(self, request, responder),
        }
    }

    /// A worker that takes calls and answers none is no worker.
    fn answers_after_end(&self) -> bool {
        !self.supervisor.registry.contains(&self.id)
    }
}

struct Registration(Arc<Session>);

impl Drop for Registration {
    fn drop(&mut self) {
        self.0.supervisor.registry.remove(&self.0.id);
    }
}
