//! Fills GoBGP's table with the pump's routes as paths of its own, by its API: 3.10 takes received MAC routes in time that
//! grows with their square. Paths added by the API it compares with those that are there when the message comes: all of
//! them in one message are compared with nothing.
//!
//! Only the fields used here are declared; both major versions number them alike and take routes and attributes as
//! octets.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use causeway_tests::gobgp::GoBgpVersion;
use prost::Message;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;

use crate::pump;

#[derive(Clone, PartialEq, Message)]
struct Family {
    #[prost(int32, tag = "1")]
    afi: i32,
    #[prost(int32, tag = "2")]
    safi: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Path {
    #[prost(message, optional, tag = "9")]
    family: Option<Family>,
    #[prost(bytes = "vec", tag = "20")]
    nlri: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "21")]
    attributes: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct AddPaths {
    #[prost(int32, tag = "1")]
    table: i32,
    #[prost(message, repeated, tag = "3")]
    paths: Vec<Path>,
}

#[derive(Clone, PartialEq, Message)]
struct Added {}

fn path(rd: Ipv4Addr, n: u32, total: u32) -> Path {
    Path {
        family: Some(Family { afi: 25, safi: 70 }),
        nlri: pump::nlri(rd, n),
        attributes: pump::attributes(pump::vtep(n, total)),
    }
}

/// The body of the process `causeway-bench fill`: adds the table to the GoBGP at 127.0.0.1:50051.
pub(crate) async fn run(major: u32, rd: Ipv4Addr, total: u32) -> Result<()> {
    // The call, and the number of the table of all routes.
    let (call, table) = match major {
        3 => ("/apipb.GobgpApi/AddPathStream", 0),
        4 => ("/api.GoBgpService/AddPathStream", 1),
        other => bail!("there is no GoBGP {other}"),
    };
    let endpoint = Endpoint::from_static("http://127.0.0.1:50051").connect_timeout(Duration::from_secs(5));
    let mut client = tonic::client::Grpc::new(endpoint.connect().await.context("GoBGP's API")?);
    client.ready().await?;
    let all = AddPaths { table, paths: (0..total).map(|n| path(rd, n, total)).collect() };
    let stream = tokio_stream::once(all);
    let codec = tonic_prost::ProstCodec::<AddPaths, Added>::default();
    let call = PathAndQuery::from_static(call);
    client.client_streaming(tonic::Request::new(stream), call, codec).await.context("AddPathStream")?;
    println!("added {total} paths");
    Ok(())
}

/// The major number of a version.
pub(crate) fn major(version: GoBgpVersion) -> u32 {
    match version {
        GoBgpVersion::Debian => 3,
        GoBgpVersion::Newest => 4,
    }
}
