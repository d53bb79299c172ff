use std::path::{Path, PathBuf};
use std::pin::Pin;

use causeway_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use tokio::net::UnixListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Streaming};

use super::*;

type Answer = Result<v1::ControllerMessage, Status>;

/// A controller that hands each session to the test.
struct Fake {
    sessions: mpsc::Sender<Session>,
    refusal: Option<Status>,
}

/// A session as the controller sees it.
struct Session {
    hello: v1::AgentHello,
    from_agent: Streaming<v1::AgentMessage>,
    to_agent: mpsc::Sender<Answer>,
}

#[tonic::async_trait]
impl AgentService for Fake {
    type SessionStream = Pin<Box<dyn Stream<Item = Answer> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut from_agent = request.into_inner();
        let first = from_agent.message().await?.and_then(|m| m.message);
        let Some(agent_message::Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (to_agent, answers) = mpsc::channel(16);
        let refusal = self.refusal.clone();
        self.sessions.send(Session { hello, from_agent, to_agent }).await.unwrap();
        refusal.map_or_else(|| Ok(Response::new(Box::pin(ReceiverStream::new(answers)) as _)), Err)
    }
}

/// Serves until `stop`, which also breaks what is open.
fn serve(path: &Path, refusal: Option<Status>, stop: CancellationToken) -> mpsc::Receiver<Session> {
    let (sessions, taken) = mpsc::channel(64);
    let listener = UnixListener::bind(path).unwrap();
    let service = AgentServiceServer::new(Fake { sessions, refusal });
    let server =
        Server::builder().add_service(service).serve_with_incoming(UnixListenerStream::new(listener));
    tokio::spawn(stop.run_until_cancelled_owned(server));
    taken
}

struct Bench {
    _dir: tempfile::TempDir,
    paths: Vec<PathBuf>,
    state: PathBuf,
    commands: mpsc::Receiver<Command>,
    statuses: mpsc::Sender<v1::AgentStatus>,
    stop: CancellationToken,
}

impl Bench {
    /// A client that knows `count` controllers, none of which serves yet.
    fn new(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..count).map(|n| dir.path().join(format!("{n}.sock"))).collect();
        let state = dir.path().join("state-dir");
        let (give, commands) = mpsc::channel(16);
        let (statuses, take) = mpsc::channel(16);
        let (journal, _) = Journal::open(&state).unwrap();
        let identity = Identity {
            node: "h1".into(),
            instance_id: "me".into(),
            controllers: paths.iter().map(|p| format!("unix:{}", p.display())).collect(),
        };
        let stop = CancellationToken::new();
        tokio::spawn(Client::new(identity, Some(journal), 0, give, take).run(stop.clone()));
        Bench { _dir: dir, paths, state, commands, statuses, stop }
    }

    async fn command(&mut self) -> Command {
        timeout(Duration::from_secs(20), self.commands.recv()).await.unwrap().unwrap()
    }

    async fn kept_revision(&self) -> u64 {
        Journal::load(&self.state).unwrap().map_or(0, |s| s.revision)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn next(sessions: &mut mpsc::Receiver<Session>) -> Session {
    timeout(Duration::from_secs(20), sessions.recv()).await.unwrap().unwrap()
}

fn snapshot(node: &str, revision: u64) -> Answer {
    let state = v1::NodeState { revision, node: node.into(), ..Default::default() };
    Ok(v1::ControllerMessage { message: Some(controller_message::Message::Snapshot(state)) })
}

fn delta(revision: u64) -> Answer {
    let delta = v1::NodeDelta { revision, ..Default::default() };
    Ok(v1::ControllerMessage { message: Some(controller_message::Message::Delta(delta)) })
}

#[tokio::test]
async fn state_flows_down_and_status_up_and_both_survive_a_controller() {
    let mut bench = Bench::new(2);
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let mut sessions = serve(&bench.paths[0], None, first.clone());
    let mut session = next(&mut sessions).await;
    assert_eq!((session.hello.node.as_str(), session.hello.instance_id.as_str()), ("h1", "me"));
    session.to_agent.send(snapshot("h1", 5)).await.unwrap();
    assert!(matches!(bench.command().await, Command::Snapshot(s) if s.revision == 5));
    assert!(matches!(bench.command().await, Command::ReportAll));
    session.to_agent.send(delta(6)).await.unwrap();
    assert!(matches!(bench.command().await, Command::Delta(d) if d.revision == 6));
    bench.statuses.send(v1::AgentStatus { revision: 6, ..Default::default() }).await.unwrap();
    let up = session.from_agent.message().await.unwrap().unwrap();
    assert!(matches!(up.message, Some(agent_message::Message::Status(s)) if s.revision == 6));
    assert_eq!(bench.kept_revision().await, 6);
    // The other controller takes over and learns what the agent has.
    let mut others = serve(&bench.paths[1], None, second.clone());
    first.cancel();
    drop(session);
    let session = next(&mut others).await;
    assert_eq!(session.hello.revision, 6);
    session.to_agent.send(snapshot("h1", 7)).await.unwrap();
    assert!(matches!(bench.command().await, Command::Snapshot(s) if s.revision == 7));
}

#[tokio::test]
async fn state_of_another_node_is_refused_and_not_kept() {
    let mut bench = Bench::new(1);
    let mut sessions = serve(&bench.paths[0], None, bench.stop.clone());
    let session = next(&mut sessions).await;
    session.to_agent.send(snapshot("h2", 5)).await.unwrap();
    // It hangs up and comes again.
    let session = next(&mut sessions).await;
    assert_eq!(bench.kept_revision().await, 0);
    assert!(bench.commands.try_recv().is_err());
    session.to_agent.send(snapshot("h1", 6)).await.unwrap();
    assert!(matches!(bench.command().await, Command::Snapshot(s) if s.revision == 6));
}

#[tokio::test]
async fn delta_before_a_snapshot_ends_the_session() {
    let mut bench = Bench::new(1);
    let mut sessions = serve(&bench.paths[0], None, bench.stop.clone());
    next(&mut sessions).await.to_agent.send(delta(5)).await.unwrap();
    next(&mut sessions).await;
    assert!(bench.commands.try_recv().is_err());
}

#[tokio::test]
async fn refused_agent_tries_the_others_and_goes_on_trying() {
    let bench = Bench::new(2);
    let refusal = Status::already_exists("node h1 has an agent already");
    let mut refusing = serve(&bench.paths[0], Some(refusal), bench.stop.clone());
    next(&mut refusing).await;
    let mut sessions = serve(&bench.paths[1], None, bench.stop.clone());
    next(&mut sessions).await;
}

#[test]
fn refusals_are_told_from_failures() {
    let status = |code| SessionError::Status(Box::new(Status::new(code, "x")));
    for code in [Code::NotFound, Code::AlreadyExists, Code::InvalidArgument, Code::PermissionDenied] {
        assert!(status(code).is_refusal(), "{code}");
    }
    for code in [Code::Unavailable, Code::Aborted, Code::DeadlineExceeded, Code::Internal, Code::Cancelled] {
        assert!(!status(code).is_refusal(), "{code}");
    }
}
