//! gRPC by tonic over a Unix socket: a unary call whose message is one field of bytes, one connection, each side on one thread
//! that sleeps in epoll between calls. Server and client are written by hand, as tonic's generator would write them.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::os::unix::net::UnixStream as StandardUnixStream;
use std::path::Path;
use std::task::{Context, Poll};
use std::time::Duration;

use praas_benches::floors::{Batch, Clock, Pinned, Placement, Samples};
use praas_benches::interleave::{Series, SeriesError};
use prost::bytes::Bytes;
use tokio::net::UnixListener;
use tokio::runtime::{Builder, Runtime};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::client::Grpc as Client;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc as ServerGrpc, NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::server::ServerProgram;
use super::{BaselineError, echo_payload, role};

pub(super) const ROLE: &str = "grpc-echo";
const NAME: &str = "gRPC";
/// The server's socket, in its directory.
const SOCKET: &str = "grpc";
/// The method, as its clients name it.
const METHOD: &str = "/praas.perf.Echo/Call";
/// The longest that a round may take.
const ROUND_PATIENCE: Duration = Duration::from_secs(60);

/// `message Payload { bytes payload = 1; }`
#[derive(Clone, PartialEq, prost::Message)]
struct Payload {
    #[prost(bytes = "bytes", tag = "1")]
    payload: Bytes,
}

type Codec = ProstCodec<Payload, Payload>;

/// What a call does.
#[derive(Debug)]
struct Call;

impl UnaryService<Payload> for Call {
    type Response = Payload;
    type Future = Ready<Result<Response<Payload>, Status>>;

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

/// `service Echo { rpc Call(Payload) returns (Payload); }`
#[derive(Clone, Debug)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "praas.perf.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented("there is one method").into_http());
            }
            Ok(ServerGrpc::new(Codec::default()).unary(Call, request).await)
        })
    }
}

fn runtime() -> Result<Runtime, BaselineError> {
    Builder::new_current_thread().enable_all().build().map_err(BaselineError::system("make an asynchronous runtime"))
}

/// The server's process: serves in its working directory until it is killed, as it is with the one who started it.
pub(super) fn serve() -> Result<(), BaselineError> {
    let served = async {
        let listener = UnixListenerStream::new(UnixListener::bind(SOCKET)?);
        Server::builder().add_service(Echo).serve_with_incoming(listener).await.map_err(io::Error::other)
    };
    runtime()?.block_on(served).map_err(BaselineError::system("serve gRPC"))
}

/// A client and its server, which is a process of its own.
#[derive(Debug)]
pub struct Grpc<const BYTES: usize> {
    placement: Placement,
    number: u64,
    client: Client<Channel>,
    // After the client, whose connection is served by it.
    runtime: Runtime,
    _server: ServerProgram,
}

impl<const BYTES: usize> Grpc<BYTES> {
    /// Starts the server and connects to it.
    ///
    /// # Errors
    /// Any [`BaselineError`].
    pub fn open(placement: Placement) -> Result<Self, BaselineError> {
        Self::open_by(&role::this_program(), placement)
    }

    /// The same with another program whose `main` calls [`role::serve_role_if_asked`].
    ///
    /// # Errors
    /// As [`Grpc::open`].
    pub fn open_by(program: &Path, placement: Placement) -> Result<Self, BaselineError> {
        let launch = role::launch(NAME, program, ROLE)?.cpu(placement.peer_cpu());
        let socket = launch.directory().join(SOCKET);
        let (server, _) = launch.start(|| StandardUnixStream::connect(&socket))?;
        let runtime = runtime()?;
        let channel =
            runtime.block_on(async { Endpoint::from_shared(format!("unix:{}", socket.display()))?.connect().await });
        let channel = channel.map_err(|error| failed("connect to gRPC", error))?;
        Ok(Self { placement, number: 0, client: Client::new(channel), runtime, _server: server })
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, BaselineError> {
        let _pinned = Pinned::to(self.placement.caller_cpu()).map_err(|error| failed("pin a thread", error))?;
        let Self { client, number, runtime, .. } = self;
        // One entry into the runtime for all calls, as in a program that is asynchronous itself.
        runtime.block_on(async {
            let calls = tokio::time::timeout(ROUND_PATIENCE, measure::<BYTES>(client, number, batch));
            calls
                .await
                .map_err(|_| failed("finish a round of gRPC", format!("it took longer than {ROUND_PATIENCE:?}")))?
        })
    }
}

/// `praas_benches::floors::timed`, of calls that are awaited.
async fn measure<const BYTES: usize>(
    client: &mut Client<Channel>,
    number: &mut u64,
    batch: Batch,
) -> Result<Samples, BaselineError> {
    let clock = Clock::calibrated();
    let mut samples = Samples::empty(1);
    let mut before = clock.ticks();
    for call in 0..batch.operations() {
        *number += 1;
        echo::<BYTES>(client, *number).await?;
        let now = clock.ticks();
        if call >= batch.warm_up {
            samples.record(clock.ns_between(before, now));
        }
        before = now;
    }
    Ok(samples)
}

async fn echo<const BYTES: usize>(client: &mut Client<Channel>, number: u64) -> Result<(), BaselineError> {
    let payload = Bytes::copy_from_slice(&echo_payload::filled::<BYTES>(number));
    client.ready().await.map_err(|error| failed("call gRPC", error))?;
    let path = PathAndQuery::from_static(METHOD);
    let answer = client.unary(Request::new(Payload { payload }), path, Codec::default()).await;
    let answer = answer.map_err(|status| failed("call gRPC", status))?.into_inner();
    echo_payload::check::<BYTES>(NAME, number, &answer.payload)
}

#[cold]
fn failed(action: &'static str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BaselineError {
    BaselineError::System { action, source: io::Error::other(error) }
}

impl<const BYTES: usize> Series for Grpc<BYTES> {
    fn label(&self) -> String {
        format!("gRPC over a Unix socket, {}", self.placement)
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}
