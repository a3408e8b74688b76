//! What happens, for whoever subscribed to hear of it.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_container_protocol::{EncodeError, Failure, Fields, is_reserved};
use serde::Serialize;
use tokio::sync::{Notify, watch};

/// What the supervisor itself tells of.
pub(crate) const REGISTER: &str = "register";
pub(crate) const REMOVE: &str = "remove";
pub(crate) const RESTART: &str = "restart";
pub(crate) const INCIDENT: &str = "incident";
const STOPPING: &str = "stopping";
const OWN: [&str; 5] = [REGISTER, REMOVE, RESTART, INCIDENT, STOPPING];

/// What was found out about a worker because a monitor wanted to know.
pub(crate) const DIAGNOSIS: &str = "diagnosis";

/// What any monitor may tell of.
const OF_MONITORS: [&str; 4] = ["leak", "metrics", "health", DIAGNOSIS];

/// Stands where events were lost. It is sent to all, and cannot be asked for.
const LOST: &str = "lost";

/// How many events may wait for one subscriber. They are encoded once for all of them, so what waits twice costs a handle.
const QUEUE_LIMIT: usize = 1024;

/// The subscribers, and what they can subscribe to.
pub(crate) struct Events {
    hub: Mutex<Hub>,
    subscribers: watch::Sender<usize>,
}

#[derive(Default)]
struct Hub {
    subscribers: Vec<Arc<Subscriber>>,
    /// Names that monitors have beside those that all may use.
    names: Vec<String>,
    closed: bool,
}

#[derive(Serialize)]
struct Head<'a> {
    event: &'a str,
    at: f64,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self { hub: Mutex::default(), subscribers: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets names be subscribed to that a monitor adds. Fails with the one that no monitor can have.
    pub(crate) fn add_names(&self, names: &[&str]) -> Result<(), String> {
        let mut hub = self.lock();

        for name in names {
            if OWN.contains(name) || *name == LOST {
                return Err((*name).to_owned());
            }

            if !OF_MONITORS.contains(name) && !hub.names.iter().any(|known| known == name) {
                hub.names.push((*name).to_owned());
            }
        }

        Ok(())
    }

    /// Whether a monitor, that has these names of its own, may emit an event of this name.
    pub(crate) fn is_of_monitors(name: &str, own: &[&str]) -> bool {
        OF_MONITORS.contains(&name) || own.contains(&name)
    }

    /// Begins to collect what happens from now on.
    pub(crate) fn subscribe(self: &Arc<Self>, names: &[String]) -> Result<Subscription, Failure> {
        let mut hub = self.lock();
        let known = OWN.into_iter().chain(OF_MONITORS).chain(hub.names.iter().map(String::as_str));
        let known: Vec<&str> = known.collect();

        if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
            let message = format!("there is no event '{name}': there are {}", known.join(", "));
            return Err(Failure::invalid_parameters(message));
        }

        let wanted = (!names.is_empty()).then(|| names.iter().cloned().collect());
        let queue = Queue { closed: hub.closed, ..Queue::default() };
        let subscriber = Arc::new(Subscriber { wanted, queue: Mutex::new(queue), changed: Notify::new() });
        hub.subscribers.push(subscriber.clone());
        self.subscribers.send_replace(hub.subscribers.len());
        Ok(Subscription { subscriber, events: self.clone() })
    }

    /// Whether anybody would hear of it.
    fn is_wanted(&self, name: &str) -> bool {
        self.lock().subscribers.iter().any(|subscriber| subscriber.wants(name))
    }

    /// Tells of something. It is encoded once, and only if anybody wants to hear of it.
    pub(crate) fn publish(&self, name: &str, fields: &(impl Serialize + ?Sized)) -> Result<(), EncodeError> {
        if !self.is_wanted(name) {
            return Ok(());
        }

        let fields = Fields::new(fields)?;

        // They would be left out of the response, without a word.
        if let Some(reserved) = fields.keys().find(|key| is_reserved(key)) {
            return Err(EncodeError::Reserved(reserved.to_owned()));
        }

        let fields = head(name).merge(&fields.without(&["event", "at"]));

        for subscriber in self.lock().subscribers.iter().filter(|subscriber| subscriber.wants(name)) {
            subscriber.push(&fields);
        }

        Ok(())
    }

    /// Tells that this supervisor stops, and that nothing more will happen.
    pub(crate) fn close(&self) {
        // Without fields there is nothing that could not be encoded.
        let _ = self.publish(STOPPING, &());
        let mut hub = self.lock();
        hub.closed = true;
        hub.subscribers.iter().for_each(|subscriber| subscriber.close());
    }

    /// Waits until all subscribers have heard everything, but no longer than this.
    pub(crate) async fn drained(&self, limit: Duration) {
        let mut subscribers = self.subscribers.subscribe();
        let _ = tokio::time::timeout(limit, subscribers.wait_for(|count| *count == 0)).await;
    }
}

fn head(event: &str) -> Fields {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    // A string and a number can always be encoded.
    Fields::new(&Head { event, at }).unwrap_or_default()
}

struct Subscriber {
    /// The names that it asked for; all if it asked for none.
    wanted: Option<HashSet<String>>,
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    closed: bool,
}

enum Item {
    Event(Fields),
    /// So many events would stand here, had there been room for them.
    Lost(u64),
}

impl Subscriber {
    fn wants(&self, name: &str) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.contains(name))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, event: &Fields) {
        let mut queue = self.lock();

        if queue.closed {
            return;
        }

        let has_room = queue.items.len() < QUEUE_LIMIT;

        match queue.items.back_mut() {
            _ if has_room => queue.items.push_back(Item::Event(event.clone())),
            Some(Item::Lost(count)) => *count += 1,
            _ => queue.items.push_back(Item::Lost(1)),
        }

        drop(queue);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }
}

/// What happens since it was made. Only one task waits for it.
pub(crate) struct Subscription {
    subscriber: Arc<Subscriber>,
    events: Arc<Events>,
}

#[derive(Serialize)]
struct Lost {
    count: u64,
}

impl Subscription {
    /// The next event as a response, in its order; `None` once nothing more will happen.
    pub(crate) async fn next(&self) -> Option<Fields> {
        loop {
            // What comes between looking and waiting leaves a permit, with which the wait is over at once.
            {
                let mut queue = self.subscriber.lock();

                match queue.items.pop_front() {
                    Some(Item::Event(fields)) => return Some(fields),
                    Some(Item::Lost(count)) => {
                        return Some(head(LOST).merge(&Fields::new(&Lost { count }).unwrap_or_default()));
                    }
                    None if queue.closed => return None,
                    None => {}
                }
            }

            self.subscriber.changed.notified().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut hub = self.events.lock();
        hub.subscribers.retain(|subscriber| !Arc::ptr_eq(subscriber, &self.subscriber));
        self.events.subscribers.send_replace(hub.subscribers.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Number {
        number: u64,
        event: &'static str,
    }

    fn publish(events: &Events, number: u64) {
        events.publish("metrics", &Number { number, event: "mine" }).unwrap();
    }

    async fn number(subscription: &Subscription) -> Option<u64> {
        let fields = subscription.next().await?;
        fields.get("number").unwrap()
    }

    #[tokio::test]
    async fn slow_subscriber_finds_a_marker_where_events_were_lost() {
        let events = Arc::new(Events::new());
        let subscription = events.subscribe(&["metrics".to_owned()]).unwrap();
        let limit = QUEUE_LIMIT as u64;

        for number in 0..limit + 5 {
            publish(&events, number);
            events.publish(REGISTER, &()).unwrap();
        }

        for expected in 0..3 {
            assert_eq!(number(&subscription).await, Some(expected));
        }

        publish(&events, 1_000_000);
        assert_eq!(subscription.subscriber.lock().items.len(), QUEUE_LIMIT - 1);

        for expected in 3..limit {
            assert_eq!(number(&subscription).await, Some(expected));
        }

        let lost = subscription.next().await.unwrap();
        assert_eq!(lost.get::<&str>("event").unwrap(), Some(LOST));
        assert_eq!(lost.get::<u64>("count").unwrap(), Some(5), "of those that it wants");
        let event = subscription.next().await.unwrap();
        assert_eq!(event.get::<u64>("number").unwrap(), Some(1_000_000));
        assert_eq!(event.get::<&str>("event").unwrap(), Some("metrics"), "which is not the monitor's to say");
    }

    #[tokio::test]
    async fn what_was_told_before_the_end_is_still_heard() {
        let events = Arc::new(Events::new());
        let subscription = events.subscribe(&[]).unwrap();
        publish(&events, 1);
        events.close();
        publish(&events, 2);
        assert_eq!(number(&subscription).await, Some(1));
        let last = subscription.next().await.unwrap();
        assert_eq!(last.get::<&str>("event").unwrap(), Some(STOPPING));
        assert!(subscription.next().await.is_none());
        let late = events.subscribe(&[]).unwrap();
        assert!(late.next().await.is_none());
        drop((subscription, late));
        assert_eq!(*events.subscribers.borrow(), 0);
    }

    #[test]
    fn fields_whose_names_the_protocol_keeps_for_itself_are_refused() {
        let events = Arc::new(Events::new());
        let subscription = events.subscribe(&[]).unwrap();
        let publish = |name: &str| events.publish("metrics", &std::collections::HashMap::from([(name, 1)]));
        for name in ["id", "error"] {
            assert!(publish(name).is_err_and(|error| error.to_string().contains(&format!("'{name}' is reserved"))));
        }
        assert!(subscription.subscriber.lock().items.is_empty());
        publish("failure").unwrap();
        assert_eq!(subscription.subscriber.lock().items.len(), 1);
    }

    #[test]
    fn names_are_known_or_named() {
        let events = Arc::new(Events::new());
        assert_eq!(events.add_names(&["queue", "leak", "queue"]), Ok(()));
        assert_eq!(events.add_names(&["stopping"]), Err("stopping".to_owned()));
        assert!(events.subscribe(&["queue".to_owned()]).is_ok());
        let failure = events.subscribe(&["register".to_owned(), "nonsense".to_owned()]).err().unwrap();
        assert_eq!(
            failure.message(),
            "there is no event 'nonsense': there are register, remove, restart, incident, stopping, leak, metrics, health, diagnosis, queue"
        );
    }
}
