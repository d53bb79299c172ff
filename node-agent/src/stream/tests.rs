use std::path::PathBuf;
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
            tls: None,
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

/// A CA, and a certificate for localhost of it, made by openssl.
fn certificates(dir: &Path) -> Tls {
    let run = |arguments: &str| {
        let out = std::process::Command::new("openssl")
            .current_dir(dir)
            .args(arguments.split_whitespace())
            .output()
            .unwrap();
        assert!(out.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&out.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    run(&format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=ca -days 2"));
    run(&format!("req {key} -keyout c.key -out c.csr -subj /CN=localhost"));
    std::fs::write(dir.join("ext"), "subjectAltName=DNS:localhost\n").unwrap();
    run("x509 -req -in c.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out c.pem -days 2 -extfile ext");
    Tls { ca: dir.join("ca.pem"), cert: Some(dir.join("c.pem")), key: Some(dir.join("c.key")) }
}

#[tokio::test]
async fn controller_is_checked_and_the_agent_proves_itself() {
    let dir = tempfile::tempdir().unwrap();
    let tls = certificates(dir.path());
    let pem = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let identity = tonic::transport::Identity::from_pem(pem("c.pem"), pem("c.key"));
    let server_tls = tonic::transport::ServerTlsConfig::new()
        .identity(identity)
        .client_ca_root(Certificate::from_pem(pem("ca.pem")));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sessions, mut taken) = mpsc::channel(8);
    let service = AgentServiceServer::new(Fake { sessions, refusal: None });
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = Server::builder().tls_config(server_tls).unwrap().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    let url = format!("https://localhost:{port}");
    // Without a certificate of its own, or with a CA that is not the controller's, there is no session.
    let stranger = tempfile::tempdir().unwrap();
    let other = certificates(stranger.path());
    for wrong in [Tls { cert: None, key: None, ..tls.clone() }, Tls { ca: other.ca, ..tls.clone() }] {
        let (give, _commands) = mpsc::channel(1);
        let (_statuses, take) = mpsc::channel(1);
        let identity =
            Identity { node: "h1".into(), instance_id: "x".into(), controllers: vec![], tls: Some(wrong) };
        let mut client = Client::new(identity, None, 0, give, take);
        let ended = timeout(Duration::from_secs(10), client.session(&url, &mut false)).await.unwrap();
        assert!(ended.is_err());
        assert!(taken.try_recv().is_err());
    }
    let (give, mut commands) = mpsc::channel(4);
    let (_statuses, take) = mpsc::channel(1);
    let identity =
        Identity { node: "h1".into(), instance_id: "x".into(), controllers: vec![url], tls: Some(tls) };
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    tokio::spawn(Client::new(identity, None, 0, give, take).run(stop));
    let session = next(&mut taken).await;
    session.to_agent.send(snapshot("h1", 3)).await.unwrap();
    assert!(matches!(commands.recv().await, Some(Command::Snapshot(s)) if s.revision == 3));
}
