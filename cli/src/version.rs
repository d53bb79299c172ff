//! `causeway version`.

use causeway_proto::v1;

use crate::client::{CallError, Client, fabric};
use crate::failure::{Exit, Outcome, printable};
use crate::output::{Format, Output, Table, Tone, plain};
use crate::view::{ServerView, VersionView};

/// Shows this program's version and, of each server, whether it answers and as what.
pub(crate) async fn run(client: &Client, out: Output) -> Outcome {
    let mut servers = Vec::new();
    for (server, client) in client.each() {
        servers.push(ask(server, &client).await);
    }
    let view = VersionView { client: env!("CARGO_PKG_VERSION"), servers };
    if out.format != Format::Table {
        out.data(&view)?;
        return Ok(Exit::Ok);
    }
    out.line(&format!("causeway {}", view.client))?;
    let mut table = Table::new(&["CONTROLLER", "VERSION", "ROUTER-ID", "AS", "PROBLEM"]);
    for server in view.servers {
        let asn = if server.asn == 0 { String::new() } else { server.asn.to_string() };
        table.row(vec![
            plain(server.server),
            plain(server.version),
            plain(server.router_id),
            plain(asn),
            (server.problem, Tone::Bad),
        ]);
    }
    out.table(&table)?;
    Ok(Exit::Ok)
}

async fn ask(server: String, client: &Client) -> ServerView {
    let answer =
        client.try_call(&async |channel| fabric(channel).list_peers(v1::ListPeersRequest {}).await).await;
    let (reachable, answer, problem) = match answer {
        Ok(answer) => (true, answer, String::new()),
        Err(CallError::Refused(status)) => {
            (true, v1::ListPeersResponse::default(), printable(status.message()))
        }
        Err(CallError::Late) => (false, v1::ListPeersResponse::default(), "no answer in time".to_owned()),
        Err(CallError::Unreachable(reasons)) => {
            let reason = reasons.into_iter().map(|(_, reason)| reason).collect::<Vec<_>>().join("; ");
            (false, v1::ListPeersResponse::default(), reason)
        }
    };
    ServerView {
        server,
        reachable,
        version: answer.version,
        router_id: answer.router_id,
        asn: answer.asn,
        problem,
    }
}
