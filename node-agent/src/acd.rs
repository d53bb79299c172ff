//! Address conflict detection (RFC 5227, RFC 4862 §5.4): before an address is brought into use on this node for the first
//! time, its network is asked whether somebody has it.
//!
//! ```text
//! reconciler ── question ──▶ detector (a thread) ── one packet socket a wire, for as long as anybody asks there
//!            ◀── answer ─────────────┘
//! ```
//!
//! While it is asked, the port is programmed but down, so that asking takes hardly longer than programming. Deviations
//! from the RFCs: three questions in a fraction of a second instead of three in up to seven, as a workload waits for it;
//! who only asks himself for the same address is no conflict, since it is the store that keeps two of ours from having
//! one; and nothing is defended once it is in use, since ports are guarded.

mod frame;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway_proto::{Mac, PortKey, Vni};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::dev::Dev;
use wire::{Open, Seen};
pub(crate) use wire::{Wire, wires};

/// How often an address is asked for: RFC 5227's PROBE_NUM.
const QUESTIONS: u32 = 3;
/// Room for questions; what does not fit is asked a moment later.
const ASKED: usize = 1024;
/// Room for answers, and for claims that were heard.
const HEARD: usize = 1024;

/// Whether somebody has one of a port's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// Chosen by who asks, for the answer.
    pub(crate) serial: u64,
    pub(crate) port: PortKey,
    pub(crate) vni: Vni,
    pub(crate) addresses: Vec<IpAddr>,
    /// Where to ask, at least one.
    pub(crate) wires: Vec<Wire>,
    /// For how long.
    pub(crate) wait: Duration,
}

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) serial: u64,
    pub(crate) port: PortKey,
    pub(crate) outcome: Outcome,
}

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nobody answered.
    Free,
    /// Somebody did.
    Taken(Evidence),
    /// It could not be asked, and why.
    Failed(String),
}

/// Who answered, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Evidence {
    pub(crate) address: IpAddr,
    pub(crate) mac: Mac,
    /// Interface of the node that the answer came in by.
    pub(crate) interface: Dev,
    /// When, in Unix milliseconds.
    pub(crate) seen_ms: i64,
}

/// Both ends of the way to a detector.
#[derive(Debug)]
pub struct Detector {
    pub(crate) questions: mpsc::Sender<Question>,
    pub(crate) answers: mpsc::Receiver<Answer>,
}

impl Detector {
    /// Starts one on a thread of its own, in the network namespace `netns` or in that of the caller. It ends when its
    /// `questions` are dropped. Closing a packet socket waits for the kernel's readers, so it is done there and nowhere
    /// else.
    pub(crate) fn start(netns: Option<PathBuf>) -> std::io::Result<(Detector, JoinHandle<()>)> {
        let (detector, asked, answers) = Detector::pair();
        let work = move || {
            let entered = netns.map_or(Ok(()), |netns| crate::netns::enter(&netns));
            let runtime =
                entered.and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
            match runtime {
                Ok(runtime) => runtime.block_on(Asking::new(answers).run(asked)),
                Err(error) => tracing::error!(%error, "this node cannot ask for addresses"),
            }
        };
        let thread = std::thread::Builder::new().name("detector".into()).spawn(work)?;
        Ok((detector, thread))
    }

    /// One with its other ends.
    pub(crate) fn pair() -> (Detector, mpsc::Receiver<Question>, mpsc::Sender<Answer>) {
        let (questions, asked) = mpsc::channel(ASKED);
        let (give, answers) = mpsc::channel(HEARD);
        (Detector { questions, answers }, asked, give)
    }
}

/// A question under way.
#[derive(Debug)]
struct Running {
    question: Question,
    begun: Instant,
    /// Times that it was put.
    put: u32,
}

impl Running {
    /// When it is put again, or is over.
    fn due(&self) -> Instant {
        self.begun + self.question.wait * self.put / QUESTIONS
    }
}

/// The detector.
struct Asking {
    answers: mpsc::Sender<Answer>,
    running: Vec<Running>,
    /// For an address that is asked for already.
    waiting: VecDeque<Question>,
    open: BTreeMap<Wire, Open>,
    readers: JoinSet<()>,
    heard: (mpsc::Sender<Seen>, mpsc::Receiver<Seen>),
}

impl Asking {
    fn new(answers: mpsc::Sender<Answer>) -> Self {
        Asking {
            answers,
            running: Vec::new(),
            waiting: VecDeque::new(),
            open: BTreeMap::new(),
            readers: JoinSet::new(),
            heard: mpsc::channel(HEARD),
        }
    }

    async fn run(mut self, mut asked: mpsc::Receiver<Question>) {
        loop {
            let due = self.running.iter().map(Running::due).min();
            let wake = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                question = asked.recv() => match question {
                    Some(question) => self.waiting.push_back(question),
                    None => break,
                },
                Some(seen) = self.heard.1.recv() => self.hear(seen).await,
                () = sleep_until(wake) => {}
            }
            while let Ok(question) = asked.try_recv() {
                self.waiting.push_back(question);
            }
            // What was heard before the time is over counts.
            while let Ok(seen) = self.heard.1.try_recv() {
                self.hear(seen).await;
            }
            self.begin().await;
            self.put().await;
            if self.running.is_empty() && self.waiting.is_empty() {
                self.readers.shutdown().await;
                self.open.clear();
            }
        }
        self.readers.shutdown().await;
    }

    async fn answer(&self, question: Question, outcome: Outcome) {
        let Question { serial, port, .. } = question;
        // Nobody wants to know any more.
        let _ = self.answers.send(Answer { serial, port, outcome }).await;
    }

    /// Begins what waits, but no address is asked for twice at once.
    async fn begin(&mut self) {
        for question in std::mem::take(&mut self.waiting) {
            let same = |r: &Running| {
                let other = &r.question;
                other.vni == question.vni && other.addresses.iter().any(|ip| question.addresses.contains(ip))
            };
            if self.running.iter().any(same) {
                self.waiting.push_back(question);
                continue;
            }
            match self.open_wires(&question.wires) {
                Ok(()) => self.running.push(Running { question, begun: Instant::now(), put: 0 }),
                Err(why) => self.answer(question, Outcome::Failed(why)).await,
            }
        }
    }

    fn open_wires(&mut self, wires: &[Wire]) -> Result<(), String> {
        for wire in wires {
            if self.open.contains_key(wire) {
                continue;
            }
            let failed = |error: std::io::Error| format!("{}: {error}", wire.dev);
            let open = Open::new(wire).map_err(failed)?;
            self.readers.spawn(open.read(self.heard.0.clone()).map_err(failed)?);
            self.open.insert(wire.clone(), open);
        }
        Ok(())
    }

    /// Puts what is due, or says that nobody answered.
    async fn put(&mut self) {
        let now = Instant::now();
        let mut over = Vec::new();
        for (n, running) in self.running.iter_mut().enumerate() {
            if running.due() > now {
                continue;
            }
            if running.put >= QUESTIONS {
                over.push(n);
                continue;
            }
            running.put += 1;
            for wire in &running.question.wires {
                let Some(open) = self.open.get(wire) else { continue };
                for address in &running.question.addresses {
                    if let Err(error) = open.ask(*address) {
                        tracing::debug!(dev = %wire.dev, %address, %error, "question not sent");
                    }
                }
            }
        }
        for n in over.into_iter().rev() {
            let Running { question, .. } = self.running.swap_remove(n);
            self.answer(question, Outcome::Free).await;
        }
    }

    async fn hear(&mut self, seen: Seen) {
        let Seen { wire, claim } = seen;
        // Our own frames, and those of the node itself.
        if self.open.values().any(|open| open.mac == claim.mac) {
            return;
        }
        let concerns =
            |r: &Running| r.question.wires.contains(&wire) && r.question.addresses.contains(&claim.address);
        while let Some(n) = self.running.iter().position(concerns) {
            let Running { question, .. } = self.running.swap_remove(n);
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let evidence = Evidence {
                address: claim.address,
                mac: claim.mac,
                interface: wire.dev.clone(),
                seen_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            };
            self.answer(question, Outcome::Taken(evidence)).await;
        }
    }
}
