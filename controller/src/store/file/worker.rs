//! The thread that writes. Each round takes what waits, evaluates it in order inside one transaction of the file,
//! commits, and only then changes what is in memory and answers: a failed commit leaves nothing half done.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use causeway_proto::Revision;
use tokio::sync::{mpsc, oneshot};

use super::disk::{Disk, Stored, Writer};
use super::history::History;
use super::leases::Leases;
use crate::store::{Compare, KeyValue, LeaseId, StoreError, Txn, TxnOutcome, WatchEvent, Write};

/// Requests in one commit at most.
const ROUND: usize = 512;
/// Pause until a watcher that had no room is told more.
const BEHIND: Duration = Duration::from_millis(2);
/// Pause before leases are looked at when there are none, or when the file could not be written.
const IDLE: Duration = Duration::from_secs(1);

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the worker is asked for.
#[derive(Debug)]
pub(super) enum Command {
    Txn { txn: Txn, reply: Reply<TxnOutcome> },
    Watch { prefix: String, after: Revision, events: mpsc::Sender<WatchEvent>, reply: Reply<()> },
    Grant { ttl: Duration, reply: Reply<LeaseId> },
    KeepAlive { lease: LeaseId, reply: Reply<()> },
    Revoke { lease: LeaseId, reply: Reply<()> },
}

/// What one round will have changed once it is committed.
#[derive(Default)]
struct Round {
    revision: Revision,
    last_lease: i64,
    transactions: Vec<(Revision, Vec<Result<KeyValue, String>>)>,
    /// Keys and the lease they hang on now.
    attached: Vec<(String, Option<LeaseId>)>,
    granted: Vec<(LeaseId, Duration)>,
    removed: Vec<LeaseId>,
    answers: Vec<Answer>,
}

/// An answer that waits for the commit.
enum Answer {
    Txn(Reply<TxnOutcome>, Result<TxnOutcome, StoreError>),
    Granted(Reply<LeaseId>, LeaseId),
    Revoked(Reply<()>),
}

/// Owner of the file's writing side.
#[derive(Debug)]
pub(super) struct Worker {
    disk: Arc<Disk>,
    revision: Revision,
    last_lease: i64,
    leases: Leases,
    history: History,
}

impl Worker {
    /// Leases of earlier runs begin anew: nobody could renew them meanwhile.
    pub(super) fn new(disk: Arc<Disk>) -> Result<Worker, StoreError> {
        let remembered = disk.remembered()?;
        let mut leases = Leases::default();
        let now = Instant::now();
        for (lease, ttl) in remembered.leases {
            leases.add(lease, Duration::from_millis(ttl), now);
        }
        for (lease, key) in remembered.leased {
            leases.attach(&key, Some(lease));
        }
        let (revision, last_lease) = (remembered.revision, remembered.last_lease);
        Ok(Worker { disk, revision, last_lease, leases, history: History::default() })
    }

    /// Runs until the other side of the queue is gone.
    pub(super) fn run(mut self, queue: &Receiver<Command>) {
        let mut pause = IDLE;
        loop {
            let mut round = Vec::new();
            match queue.recv_timeout(pause) {
                Ok(command) => round.push(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while round.len() < ROUND {
                match queue.try_recv() {
                    Ok(command) => round.push(command),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            let failed = self.work(round).is_err();
            pause = self.pause(failed);
        }
    }

    /// Time until something is to be done without being asked.
    fn pause(&mut self, failed: bool) -> Duration {
        if self.history.tell(self.revision) {
            return BEHIND;
        }
        match self.leases.next_end() {
            Some(end) if !failed => end.saturating_duration_since(Instant::now()).min(IDLE),
            _ => IDLE,
        }
    }

    /// One round; `Err` if leases that have run out could not be removed.
    fn work(&mut self, commands: Vec<Command>) -> Result<(), ()> {
        let now = Instant::now();
        let mut writes = Vec::new();
        for command in commands {
            match command {
                Command::Watch { prefix, after, events, reply } => {
                    self.history.watch(prefix, after, events);
                    // A failed send means that the caller went away; so it is below.
                    let _ = reply.send(Ok(()));
                }
                Command::KeepAlive { lease, reply } => {
                    let renewed = self.leases.renew(lease, now);
                    let _ = reply.send(renewed.then_some(()).ok_or(StoreError::LeaseExpired(lease)));
                }
                command => writes.push(command),
            }
        }
        let ended = self.leases.ended(now);
        if writes.is_empty() && ended.is_empty() {
            return Ok(());
        }
        self.commit(writes, &ended)
    }

    fn commit(&mut self, commands: Vec<Command>, ended: &[LeaseId]) -> Result<(), ()> {
        let mut round = Round { revision: self.revision, last_lease: self.last_lease, ..Round::default() };
        let mut commands = commands.into_iter();
        let written = self.disk.write(|writer| {
            for lease in ended {
                end_lease(writer, &self.leases, &mut round, *lease)?;
            }
            for command in commands.by_ref() {
                carry_out(writer, &self.leases, &mut round, command, self.disk.name())?;
            }
            writer.set_revision(round.revision)
        });
        match written {
            Ok(()) => {
                self.take_up(round);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(store = self.disk.name(), %error, "nothing could be written");
                refuse(round.answers, commands, &error);
                Err(())
            }
        }
    }

    /// The round is durable: now it is true.
    fn take_up(&mut self, round: Round) {
        let now = Instant::now();
        self.revision = round.revision;
        self.last_lease = round.last_lease;
        for (lease, ttl) in round.granted {
            self.leases.add(lease, ttl, now);
        }
        for (key, lease) in round.attached {
            self.leases.attach(&key, lease);
        }
        for lease in round.removed {
            self.leases.remove(lease);
        }
        for (revision, changes) in round.transactions {
            self.history.push(revision, changes);
        }
        for answer in round.answers {
            match answer {
                Answer::Txn(reply, outcome) => drop(reply.send(outcome)),
                Answer::Granted(reply, lease) => drop(reply.send(Ok(lease))),
                Answer::Revoked(reply) => drop(reply.send(Ok(()))),
            }
        }
    }
}

fn refuse(answers: Vec<Answer>, commands: impl Iterator<Item = Command>, error: &StoreError) {
    let again = || match error {
        StoreError::Unavailable { store, reason } => {
            StoreError::Unavailable { store: store.clone(), reason: reason.clone() }
        }
        error => StoreError::Internal { store: String::new(), reason: error.to_string() },
    };
    for answer in answers {
        match answer {
            Answer::Txn(reply, _) => drop(reply.send(Err(again()))),
            Answer::Granted(reply, _) => drop(reply.send(Err(again()))),
            Answer::Revoked(reply) => drop(reply.send(Err(again()))),
        }
    }
    for command in commands {
        match command {
            Command::Txn { reply, .. } => drop(reply.send(Err(again()))),
            Command::Grant { reply, .. } => drop(reply.send(Err(again()))),
            Command::Watch { reply, .. }
            | Command::KeepAlive { reply, .. }
            | Command::Revoke { reply, .. } => {
                drop(reply.send(Err(again())));
            }
        }
    }
}

fn carry_out(
    writer: &mut Writer<'_>,
    leases: &Leases,
    round: &mut Round,
    command: Command,
    name: &str,
) -> Result<(), redb::Error> {
    match command {
        Command::Txn { txn, reply } => {
            // The answer is booked before anything can fail, so that it is given in every case.
            let at = round.answers.len();
            round.answers.push(Answer::Txn(reply, Ok(TxnOutcome::Committed(round.revision))));
            let outcome = transact(writer, leases, round, txn, name)?;
            if let Some(Answer::Txn(_, answer)) = round.answers.get_mut(at) {
                *answer = outcome;
            }
        }
        Command::Grant { ttl, reply } => {
            round.last_lease += 1;
            let lease = LeaseId(round.last_lease);
            round.answers.push(Answer::Granted(reply, lease));
            round.granted.push((lease, ttl));
            writer.put_lease(lease, u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))?;
        }
        Command::Revoke { lease, reply } => {
            round.answers.push(Answer::Revoked(reply));
            end_lease(writer, leases, round, lease)?;
        }
        // These write nothing and were answered before.
        Command::Watch { .. } | Command::KeepAlive { .. } => {}
    }
    Ok(())
}

fn transact(
    writer: &mut Writer<'_>,
    leases: &Leases,
    round: &mut Round,
    txn: Txn,
    name: &str,
) -> Result<Result<TxnOutcome, StoreError>, redb::Error> {
    let mut keys = BTreeSet::new();
    for write in &txn.writes {
        let (Write::Put { key, .. } | Write::Delete(key)) = write;
        if !keys.insert(key.as_str()) {
            let reason = format!("key {key} is written twice in one transaction");
            return Ok(Err(StoreError::Internal { store: name.to_owned(), reason }));
        }
        if let Write::Put { lease: Some(lease), .. } = write
            && (!leases.contains(*lease) || round.removed.contains(lease))
        {
            return Ok(Err(StoreError::LeaseExpired(*lease)));
        }
    }
    let mut failing = Vec::new();
    for (i, compare) in txn.compares.iter().enumerate() {
        if !holds(writer, compare)? {
            failing.push(i);
        }
    }
    if !failing.is_empty() {
        return Ok(Ok(TxnOutcome::Conflict(failing)));
    }
    let revision = Revision(round.revision.0 + 1);
    let mut changes = Vec::with_capacity(txn.writes.len());
    for write in txn.writes {
        match write {
            Write::Put { key, value, lease } => {
                let stored = Stored { revision, lease, value };
                writer.put(&key, &stored)?;
                round.attached.push((key.clone(), lease));
                changes.push(Ok(KeyValue { key, value: stored.value, revision }));
            }
            Write::Delete(key) => {
                if writer.delete(&key)? {
                    round.attached.push((key.clone(), None));
                    changes.push(Err(key));
                }
            }
        }
    }
    // As in etcd: what changes nothing has no revision of its own.
    if !changes.is_empty() {
        round.revision = revision;
        round.transactions.push((revision, changes));
    }
    Ok(Ok(TxnOutcome::Committed(round.revision)))
}

fn holds(writer: &Writer<'_>, compare: &Compare) -> Result<bool, redb::Error> {
    Ok(match compare {
        Compare::Absent(key) => writer.header(key)?.is_none(),
        Compare::Present(key) => writer.header(key)?.is_some(),
        Compare::Unchanged(key, at) => {
            writer.header(key)?.map_or(Revision::default(), |(revision, _)| revision) == *at
        }
        Compare::NoneBelow(prefix) => !writer.any_below(prefix)?,
    })
}

/// Removes a lease and what hangs on it, in a transaction of its own revision.
fn end_lease(
    writer: &mut Writer<'_>,
    leases: &Leases,
    round: &mut Round,
    lease: LeaseId,
) -> Result<(), redb::Error> {
    if round.removed.contains(&lease) || !leases.contains(lease) {
        return Ok(());
    }
    let revision = Revision(round.revision.0 + 1);
    let mut changes = Vec::new();
    // Keys put in this very round are not in memory yet: ask the file about both.
    let early = round.attached.iter().filter(|(_, l)| *l == Some(lease)).map(|(key, _)| key.clone());
    let keys: BTreeSet<String> = leases.keys(lease).into_iter().chain(early).collect();
    for key in keys {
        if writer.header(&key)?.is_some_and(|(_, on)| on == Some(lease)) && writer.delete(&key)? {
            round.attached.push((key.clone(), None));
            changes.push(Err(key));
        }
    }
    writer.delete_lease(lease)?;
    round.removed.push(lease);
    if !changes.is_empty() {
        round.revision = revision;
        round.transactions.push((revision, changes));
    }
    Ok(())
}
