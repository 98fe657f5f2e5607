//! What outsiders talk to: questions about the whole cluster, what operators do to services, and
//! the node's HTTP face.
//!
//! There is no master. The attached node asks all others at once, on behalf of whoever asked it,
//! and answers with what came back: a node that is silent is a row, not a failure (orchestration
//! §1). What is decided from answers is pure (`rows`, `rollout`, `plan`, `metrics`); the rest
//! waits for answers.
#![forbid(unsafe_code)]

mod actor;
mod adopt;
mod around;
mod check;
mod exec;
mod facts;
mod follow;
mod http;
mod macp;
mod metrics;
mod nodes;
mod operate;
mod operations;
mod plan;
mod purge;
mod readiness;
mod recover;
mod rollout;
mod rows;
mod ship;
mod transfer;
mod update;
mod usage;

pub use actor::{Gateway, GatewayConfig, factory};
pub use http::HttpFace;
pub use macp::{
    Auth, AuthError, Certificates, Holder, Jwt, JwtConfig, KeySource, KeyText, MacpConfig,
    MacpFace, ReceiptKeyError, ReceiptKeys, Tokens as MacpTokens,
};
