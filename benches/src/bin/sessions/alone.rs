//! What gRPC alone costs: a server that acknowledges whatever it is sent, and keeps nothing.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use weft_macp::macp::v1::{Ack, InitializeRequest, InitializeResponse, SendRequest, SendResponse};

use crate::Fatal;

/// The first argument of the process that serves.
pub(crate) const ARGUMENT: &str = "--alone";
/// The one call of [`Service`] that agents make.
const SEND: &str = "/macp.v1.MACPRuntimeService/Send";

#[derive(Debug, Clone)]
struct Yes;

impl NamedService for Yes {
    const NAME: &'static str = "macp.v1.MACPRuntimeService";
}

impl UnaryService<SendRequest> for Yes {
    type Response = SendResponse;
    type Future = Ready<Result<Response<SendResponse>, Status>>;

    fn call(&mut self, request: Request<SendRequest>) -> Self::Future {
        let envelope = request.into_inner().envelope.unwrap_or_default();
        let ack = Ack {
            ok: true,
            message_id: envelope.message_id,
            session_id: envelope.session_id,
            ..Ack::default()
        };
        ready(Ok(Response::new(SendResponse { ack: Some(ack) })))
    }
}

impl UnaryService<InitializeRequest> for Yes {
    type Response = InitializeResponse;
    type Future = Ready<Result<Response<InitializeResponse>, Status>>;

    fn call(&mut self, _: Request<InitializeRequest>) -> Self::Future {
        ready(Ok(Response::new(InitializeResponse::default())))
    }
}

impl Service<http::Request<Body>> for Yes {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            Ok(if request.uri().path() == SEND {
                let codec = ProstCodec::<SendResponse, SendRequest>::default();
                Grpc::new(codec).unary(Self, request).await
            } else {
                let codec = ProstCodec::<InitializeResponse, InitializeRequest>::default();
                Grpc::new(codec).unary(Self, request).await
            })
        })
    }
}

/// Serves at `MACP_BIND_ADDR` until it is killed.
///
/// # Errors
/// If it cannot.
pub(crate) fn serve() -> Result<(), Fatal> {
    let address: SocketAddr = std::env::var("MACP_BIND_ADDR")?.parse()?;
    // As the other servers have it.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(tonic::transport::Server::builder().add_service(Yes).serve(address))?)
}
