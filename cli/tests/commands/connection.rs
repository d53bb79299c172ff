//! How controllers are reached: addresses, sockets, TLS, and what is said when they are not.

use super::*;

#[test]
fn an_unreachable_controller_is_named() {
    let done = causeway("http://127.0.0.1:1", &["get", "vrfs"], "");
    assert_eq!(done.code, 1);
    assert!(
        done.err.contains("cannot reach controller at http://127.0.0.1:1: Connection refused"),
        "{}",
        done.err
    );
    assert!(done.err.contains("next: is it running? set --server or CAUSEWAY_SERVER"), "{}", done.err);
    let done = causeway("", &["get", "vrfs", "--timeout", "1s"], "");
    assert_ne!(done.code, 64, "{}", done.err);
    let done = causeway("unix:/nonexistent/c.sock,127.0.0.1:1", &["port", "list"], "");
    assert_eq!(done.code, 1);
    assert!(
        done.err.contains("unix:/nonexistent/c.sock: ") && done.err.contains("127.0.0.1:1: "),
        "{}",
        done.err
    );
}

#[test]
fn a_silent_controller_is_a_timeout() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let done = causeway(&server, &["get", "vrfs", "--timeout", "300ms"], "");
    assert_eq!(done.code, 6, "{}", done.err);
    assert!(done.err.contains("cannot list vrfs: no answer within 300 ms"), "{}", done.err);
}

#[test]
fn the_next_controller_answers_when_the_first_is_gone() {
    let running = Running::start();
    let servers = format!("http://127.0.0.1:1,{}", running.server());
    let done = causeway(&servers, &["bgp", "peers"], "");
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("10.0.0.1"), "{}", done.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_works() {
    let running = Running::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.sock");
    let incoming =
        tokio_stream::wrappers::UnixListenerStream::new(tokio::net::UnixListener::bind(&path).unwrap());
    let server = tokio::spawn(running.fake.router().serve_with_incoming(incoming));
    let address = format!("unix:{}", path.display());
    let done = tokio::task::spawn_blocking(move || causeway(&address, &["node", "list"], "")).await.unwrap();
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("never seen") && done.out.contains("connected"), "{}", done.out);
    server.abort();
}

/// A certificate authority, a server and a client certificate in a folder.
fn certificates(dir: &std::path::Path) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &ca).unwrap();
        std::fs::write(dir.join(format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_checks_both_sides() {
    use tonic::transport::{Certificate, Identity, ServerTlsConfig};
    let running = Running::start();
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(read("server.pem"), read("server.key")))
        .client_ca_root(Certificate::from_pem(read("ca.pem")));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = tonic::transport::Server::builder().tls_config(tls).unwrap();
    let router = server.add_service(causeway_proto::v1::fabric_service_server::FabricServiceServer::new(
        running.fake.clone(),
    ));
    let served =
        tokio::spawn(router.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let done = tokio::task::spawn_blocking(move || {
        let ask = |server: &str, flags: &[&str]| causeway(server, &[&["node", "list"], flags].concat(), "");
        let https = format!("https://{address}");
        let both = ["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
        [
            ask(&https, &both),
            ask(&address.to_string(), &both),
            ask(&https, &["--tls-ca", &ca]),
            ask(&https, &["--tls-ca", &cert]),
            ask(&https, &[]),
            ask(&format!("http://{address}"), &both),
            ask(&format!("http://{address}"), &[]),
        ]
    });
    let done = done.await.unwrap();
    let codes: Vec<i32> = done.iter().map(|d| d.code).collect();
    let errors: Vec<&str> = done.iter().map(|d| d.err.as_str()).collect();
    assert_eq!(codes, [0, 0, 1, 1, 64, 64, 1], "{errors:#?}");
    assert!(done[0].out.contains("host1"), "{}", done[0].out);
    assert!(errors[2].contains("the connection broke") && errors[2].contains("--tls-cert"), "{errors:#?}");
    assert!(errors[3].contains("invalid peer certificate"), "{errors:#?}");
    served.abort();
}
