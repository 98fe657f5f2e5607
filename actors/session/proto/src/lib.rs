//! The messages of MACP (`macp.v1` and one package per mode), generated once with prost.
//!
//! Only messages: whoever serves or calls the RPCs generates its stubs from [`DESCRIPTORS`] (in a
//! build script: the file that `DEP_WEFT_MACP_DESCRIPTORS` names) with
//! `extern_path(".macp", "::weft_macp::macp")`, so that no message is compiled twice and the
//! kernel compiles no gRPC.
#![allow(missing_docs, unreachable_pub, rustdoc::all, clippy::all, reason = "generated code")]

include!(concat!(env!("OUT_DIR"), "/macp.rs"));

/// The compiled proto files as an encoded `google.protobuf.FileDescriptorSet`; reflection serves
/// it as it is.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/macp.bin"));
