//! The calls of one connection, in a table for each direction, so that ids of the two sides can never collide.

use std::{
    collections::{
        HashSet, VecDeque,
        hash_map::{Entry, OccupiedEntry},
    },
    mem,
    task::Waker,
    time::Instant,
};

use crate::{
    deadlines::Deadlines,
    error::CallError,
    hash::Table,
    message::{Id, Message},
    notice::{Awaiting, Notice},
    places::Places,
};

/// A call that came in: its id, and a number that tells it from a later call with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallKey {
    pub(crate) id: Id,
    pub(crate) serial: u64,
}

impl CallKey {
    /// The id that the caller chose.
    pub fn id(&self) -> Id {
        self.id
    }
}

/// What is known of a call that came in and is not answered yet.
pub(crate) struct Incoming {
    serial: u64,
    /// Responses that may not have been written yet.
    queued: usize,
    /// How far the output has to be written until none of those is left.
    mark: u64,
    /// How many more the caller is ready for. `None` if it never said.
    credit: Option<u64>,
    /// Whether a task carries the handler on, and how to wake it.
    has_task: bool,
    pub(crate) task: Option<Waker>,
    /// Whoever waits for the call to be cancelled.
    pub(crate) cancelled: Option<Waker>,
    /// Whoever waits until another response may be sent.
    pub(crate) room: Option<Waker>,
}

impl Incoming {
    /// How many responses wait, when `written` bytes of all output are gone.
    pub(crate) fn queued(&mut self, written: u64) -> usize {
        if written >= self.mark {
            self.queued = 0;
        }

        self.queued
    }

    /// Whether the caller is ready for another response.
    pub(crate) fn has_credit(&self) -> bool {
        self.credit != Some(0)
    }

    pub(crate) fn sent(&mut self, mark: u64) {
        self.queued += 1;
        self.mark = mark;
        self.credit = self.credit.map(|credit| credit.saturating_sub(1));
    }
}

/// Why a call that came in is not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A call with its id is not finished yet.
    DuplicateId,
    /// There are as many as there may be.
    TooManyCalls,
}

/// The calls that came in.
#[derive(Default)]
pub(crate) struct IncomingCalls {
    table: Table<Id, Incoming>,
    serial: u64,
    /// Calls whose tasks have to stop and did not yet. A call that is answered is in neither place: what its handler
    /// does after the answer is its own affair, and goes on even if the caller is gone.
    stopping: HashSet<u64>,
}

impl IncomingCalls {
    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Begins a call. Of those that are not finished there may be so many, and each has an id of its own.
    pub(crate) fn begin(&mut self, id: Id, credit: Option<u64>, limit: usize) -> Result<CallKey, Refusal> {
        let open = self.table.len();

        let Entry::Vacant(place) = self.table.entry(id) else {
            return Err(Refusal::DuplicateId);
        };

        if open >= limit {
            return Err(Refusal::TooManyCalls);
        }

        self.serial += 1;
        place.insert(Incoming {
            serial: self.serial,
            queued: 0,
            mark: 0,
            credit,
            has_task: false,
            task: None,
            cancelled: None,
            room: None,
        });

        Ok(CallKey { id, serial: self.serial })
    }

    pub(crate) fn get(&mut self, key: CallKey) -> Option<&mut Incoming> {
        self.table.get_mut(&key.id).filter(|call| call.serial == key.serial)
    }

    /// As [`get`](Self::get), for whom may forget it.
    pub(crate) fn entry(&mut self, key: CallKey) -> Option<OccupiedEntry<'_, Id, Incoming>> {
        match self.table.entry(key.id) {
            Entry::Occupied(entry) if entry.get().serial == key.serial => Some(entry),
            _ => None,
        }
    }

    /// The caller is ready for more responses.
    pub(crate) fn grant(&mut self, id: Id, more: u64, notices: &mut Vec<Notice>) {
        if let Some(call) = self.table.get_mut(&id)
            && let Some(credit) = &mut call.credit
        {
            *credit = credit.saturating_add(more);
            notices.extend(call.room.take().map(Notice::Wake));
        }
    }

    /// The caller wants no answer any more.
    pub(crate) fn cancel(&mut self, id: Id, notices: &mut Vec<Notice>) -> Option<CallKey> {
        let call = self.table.remove(&id)?;
        let serial = call.serial;
        self.stop(call, notices);
        Some(CallKey { id, serial })
    }

    pub(crate) fn clear(&mut self, notices: &mut Vec<Notice>) {
        for (_, call) in mem::take(&mut self.table) {
            self.stop(call, notices);
        }
    }

    fn stop(&mut self, call: Incoming, notices: &mut Vec<Notice>) {
        if call.has_task {
            self.stopping.insert(call.serial);
        }

        let tasks = [call.task, call.cancelled, call.room];
        notices.extend(tasks.into_iter().flatten().map(Notice::Wake));
    }

    pub(crate) fn begin_task(&mut self, key: CallKey) -> bool {
        match self.get(key) {
            Some(call) => {
                call.has_task = true;
                true
            }
            None => false,
        }
    }

    pub(crate) fn is_task_over(&self, key: CallKey) -> bool {
        self.stopping.contains(&key.serial)
    }

    pub(crate) fn end_task(&mut self, key: CallKey) {
        self.stopping.remove(&key.serial);
    }
}

/// How far an outgoing call is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More may come.
    #[default]
    Open,
    /// The final response is among those that wait to be taken, or was taken.
    Finished,
    /// Its time is over.
    TimedOut,
    /// Its responses were not taken.
    NotTaken,
    /// The connection was closed.
    Closed,
}

/// Who waits for the responses of a call.
enum Waiting {
    /// A task, for any of them.
    Task(Waker),
    /// One that wants no more than the end.
    End(Box<dyn Awaiting>),
}

#[derive(Default)]
pub(crate) struct Outgoing {
    /// Responses that wait to be taken. The first is apart, because most calls have only one, and it takes no memory.
    first: Option<Message>,
    rest: VecDeque<Message>,
    /// How many may wait before nothing more is read.
    limit: usize,
    /// Whether it was made after the peer had been told how many may wait.
    announced: bool,
    /// How many were taken since the peer was last asked for more.
    taken: u64,
    progress: Progress,
    deadline: Option<Instant>,
    waiting: Option<Waiting>,
}

impl Outgoing {
    /// Begins, in the place of one that was [cleared](Self::clear).
    fn begin(&mut self, limit: usize, announced: bool) {
        self.limit = limit;
        self.announced = announced;
        self.taken = 0;
        self.progress = Progress::Open;
        self.deadline = None;
    }

    /// Keeps nothing that takes memory.
    fn clear(&mut self) {
        self.first = None;
        self.waiting = None;

        if self.rest.capacity() > 0 {
            self.rest = VecDeque::new();
        }
    }

    fn waiting(&self) -> usize {
        self.first.is_some() as usize + self.rest.len()
    }

    /// Whether nothing more may come before something is taken.
    fn is_full(&self) -> bool {
        self.progress == Progress::Open && self.waiting() >= self.limit
    }

    fn push(&mut self, message: Message) {
        match self.first {
            None => self.first = Some(message),
            Some(_) => self.rest.push_back(message),
        }
    }

    fn pop(&mut self) -> Option<Message> {
        match self.rest.is_empty() {
            true => self.first.take(),
            false => mem::replace(&mut self.first, self.rest.pop_front()),
        }
    }
}

/// What there is of an outgoing call when its owner asks.
#[derive(Debug)]
pub(crate) enum Taken {
    /// A response, and how many more the peer is to be asked for.
    Message(Message, u64),
    /// Nothing yet.
    Nothing,
    /// Nothing, ever again.
    Ended(Progress),
}

/// The calls that go out.
pub(crate) struct OutgoingCalls {
    table: Places<Outgoing>,
    next: u64,
    open: usize,
    /// Calls that have as many responses waiting to be taken as they may.
    full: usize,
    queue_limit: usize,
    /// Whether the peer sends no more than it was asked for.
    heeded: bool,
    deadlines: Deadlines,
}

impl OutgoingCalls {
    pub(crate) fn new(first: u64, queue_limit: usize) -> Self {
        Self {
            table: Places::default(),
            next: first,
            open: 0,
            full: 0,
            queue_limit,
            heeded: false,
            deadlines: Deadlines::default(),
        }
    }

    /// Whether every call was forgotten.
    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// How many may still be answered.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Whether a call has so many responses waiting that no more can be read.
    pub(crate) fn is_full(&self) -> bool {
        self.full > 0
    }

    /// The id of the next call. It counts up only by [`insert`](Self::insert), so that one that could not be sent
    /// leaves no gap.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn insert(&mut self, announced: bool) -> u64 {
        let id = self.next;
        self.next += 2;
        self.open += 1;
        let limit = self.limit(announced);
        self.table.insert(id).begin(limit, announced);
        id
    }

    /// Where the peer sends no more than it was asked for, the last of these fills the queue and holds up nothing; one more
    /// is one that it should not have sent.
    fn limit(&self, announced: bool) -> usize {
        self.queue_limit + usize::from(announced && self.heeded)
    }

    /// The peer will send no more than it is asked for, to calls of which it knows that.
    pub(crate) fn heed(&mut self) {
        if mem::replace(&mut self.heeded, true) {
            return;
        }

        let (limit, mut full) = (self.queue_limit + 1, 0);

        self.table.for_each(|_, call| {
            if call.announced {
                call.limit = limit;
            }

            full += usize::from(call.is_full());
        });

        self.full = full;
    }

    /// Sets when a call ends without an answer. A call that ended already keeps its end.
    pub(crate) fn set_deadline(&mut self, id: u64, deadline: Instant) {
        if let Some(call) = self.table.get_mut(id)
            && call.progress == Progress::Open
        {
            if let Some(earlier) = call.deadline.replace(deadline) {
                self.deadlines.remove((earlier, id));
            }

            self.deadlines.insert((deadline, id));
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| deadline)
    }

    /// Gives a response to its call. Returns how many more the peer is to be asked for; nothing if there is no call that waits for it.
    pub(crate) fn deliver(&mut self, id: u64, message: Message, notices: &mut Vec<Notice>) -> Option<u64> {
        let call = self.table.get_mut(id).filter(|call| call.progress == Progress::Open)?;

        let was_full = call.is_full();
        let is_final = message.is_final();
        call.push(message);

        if let Some(Waiting::Task(waker)) = call.waiting.take_if(|waiting| matches!(waiting, Waiting::Task(_))) {
            notices.push(Notice::Wake(waker));
        }

        if is_final {
            call.progress = Progress::Finished;
            self.open -= 1;

            if let Some(deadline) = call.deadline.take() {
                self.deadlines.remove((deadline, id));
            }
        }

        self.full = self.full + call.is_full() as usize - was_full as usize;

        if call.waiting.is_none() {
            return Some(0);
        }

        Some(self.take_for(id, notices))
    }

    fn end(&mut self, id: u64, progress: Progress) {
        if let Some(call) = self.table.get_mut(id)
            && call.progress == Progress::Open
        {
            self.full -= call.is_full() as usize;
            self.open -= 1;
            call.progress = progress;

            if let Some(deadline) = call.deadline.take() {
                self.deadlines.remove((deadline, id));
            }
        }
    }

    /// Takes a response of a call. If there is none yet, `waker` is told when there is. A call whose final response is taken
    /// is forgotten.
    pub(crate) fn take(&mut self, id: u64, waker: Option<&Waker>) -> Taken {
        let Some(call) = self.table.get_mut(id) else {
            return Taken::Ended(Progress::Closed);
        };

        let was_full = call.is_full();

        let Some(message) = call.pop() else {
            return match call.progress {
                Progress::Open => {
                    match (&mut call.waiting, waker) {
                        (_, None) => {}
                        (Some(Waiting::Task(known)), Some(waker)) => known.clone_from(waker),
                        (waiting, Some(waker)) => *waiting = Some(Waiting::Task(waker.clone())),
                    }

                    Taken::Nothing
                }
                ended => Taken::Ended(ended),
            };
        };

        if message.is_final() {
            call.clear();
            self.table.remove(id);
            return Taken::Message(message, 0);
        }

        if was_full && !call.is_full() {
            self.full -= 1;
        }

        if !self.heeded || !call.announced || call.progress != Progress::Open {
            return Taken::Message(message, 0);
        }

        call.taken += 1;

        // Asked for in lots, so that a long stream costs few messages the other way.
        let more = match call.taken * 2 >= self.queue_limit as u64 {
            true => mem::take(&mut call.taken),
            false => 0,
        };

        Taken::Message(message, more)
    }

    /// Has the end of a call given to this one.
    pub(crate) fn set_awaiting(&mut self, id: u64, awaiting: Box<dyn Awaiting>) {
        if let Some(call) = self.table.get_mut(id) {
            call.waiting = Some(Waiting::End(awaiting));
        }
    }

    /// Takes a response in the name of one that wants the end of a call. Returns how many more the peer is to be asked for.
    fn take_for(&mut self, id: u64, notices: &mut Vec<Notice>) -> u64 {
        let waiting = self.table.get_mut(id).and_then(|call| call.waiting.take());

        match (self.take(id, None), waiting) {
            (Taken::Message(message, _), Some(Waiting::End(mut awaiting))) if message.is_final() => {
                awaiting.put(Ok(message));
                notices.push(Notice::Ended(awaiting));
                0
            }
            (taken, waiting) => {
                if let Some(call) = self.table.get_mut(id) {
                    call.waiting = waiting;
                }

                if let Taken::Message(_, more) = taken { more } else { 0 }
            }
        }
    }

    /// Forgets a call. Returns whether it was still open, so that the other side has to be told.
    pub(crate) fn remove(&mut self, id: u64) -> bool {
        let open = self.open;
        self.end(id, Progress::Finished);

        if let Some(call) = self.table.get_mut(id) {
            call.clear();
            self.table.remove(id);
        }

        self.open < open
    }

    /// Ends the next call whose time is over.
    pub(crate) fn expire(&mut self, now: Instant, notices: &mut Vec<Notice>) -> Option<u64> {
        let (deadline, id) = self.deadlines.first()?;

        if deadline > now {
            return None;
        }

        self.finish(id, Progress::TimedOut, notices);
        Some(id)
    }

    /// Ends the calls whose responses hold up everything else. What came for them can still be taken.
    pub(crate) fn give_up_full(&mut self, notices: &mut Vec<Notice>) -> Vec<u64> {
        let mut full = Vec::new();

        self.table.for_each(|id, call| {
            if call.is_full() {
                full.push(id);
            }
        });

        for id in &full {
            self.finish(*id, Progress::NotTaken, notices);
        }

        full
    }

    fn finish(&mut self, id: u64, progress: Progress, notices: &mut Vec<Notice>) {
        self.end(id, progress);

        match self.table.get_mut(id).and_then(|call| call.waiting.take()) {
            None => {}
            Some(Waiting::Task(waker)) => notices.push(Notice::Wake(waker)),
            Some(Waiting::End(mut awaiting)) => {
                if progress == Progress::TimedOut {
                    awaiting.put(Err(CallError::TimedOut));
                }

                notices.push(Notice::Ended(awaiting));
                // Nobody will ask for it.
                self.remove(id);
            }
        }
    }

    /// Ends all of them. What came for them can still be taken.
    pub(crate) fn close(&mut self, notices: &mut Vec<Notice>) {
        let calls: Vec<u64> = self.table.ids().collect();

        for id in calls {
            self.finish(id, Progress::Closed, notices);
        }
    }
}

/// Remembers whom to wake.
pub(crate) fn keep(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(known) => known.clone_from(waker),
        None => *place = Some(waker.clone()),
    }
}
