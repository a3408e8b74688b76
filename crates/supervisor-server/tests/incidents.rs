//! Which incidents are told of: those of processes that are killed.

mod common;

use std::time::{Duration, SystemTime};

use async_container_supervisor_server::{Case, ChildState, Examination, Examiner, RootState, Server};
use common::{TestRoot, TestServer};
use serde_json::json;
use tokio::sync::mpsc;

/// Says of which process it was asked, and finds something at once.
struct Finder(mpsc::UnboundedSender<u32>);

impl Examiner for Finder {
    fn limit(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn examine(&self, case: Case) -> Examination {
        let asked = self.0.send(case.process_id);
        Box::pin(async move { asked.is_ok().then(|| format!("incident-{}", case.process_id).into()) })
    }
}

/// One that was asked to end, and will be killed in so many seconds.
fn late(process_id: u32, seconds: f64) -> ChildState {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    ChildState {
        process_id: Some(process_id),
        condemned: Some("still there".to_owned()),
        kill_at: Some(now + seconds),
        ..ChildState::default()
    }
}

#[tokio::test]
async fn what_ends_by_itself_after_all_is_not_told_of() {
    const LONG: f64 = 3600.0;
    let (spared, killed, due) = (900_000_001, 900_000_002, 900_000_003);
    let (root, _requests) = TestRoot::new(true);
    let root = root.with_state(RootState::default());
    let (examiner, mut asked) = mpsc::unbounded_channel();
    let server = TestServer::start(Server::new().root(root.clone()).examiner(Finder(examiner)));
    let mut subscriber = server.lines().await;
    subscriber.say(json!({"id": 2, "do": "subscribe", "events": ["incident"]})).await;
    subscriber.ask(json!({"id": 4, "do": "ping"})).await;

    root.set_state(|state| state.children = vec![late(spared, LONG), late(killed, LONG)]);
    assert_eq!((asked.recv().await, asked.recv().await), (Some(spared), Some(killed)));
    // One ended by itself; the other was killed before its time, because nobody waits any more.
    root.set_state(|state| {
        state.children.clear();
        state.spared.push(spared);
    });
    let event = subscriber.hear().await;
    assert_eq!((&event["process_id"], &event["path"]), (&json!(killed), &json!("incident-900000002")), "{event}");

    // It is told when it is killed, and not only when it is gone.
    root.set_state(|state| state.children.push(late(due, 0.0)));
    assert_eq!(subscriber.hear().await["process_id"], due);
}
