//! Generates the client of MACP's service; its messages are those of weft-macp.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::var("DEP_WEFT_MACP_DESCRIPTORS")?;
    println!("cargo::rerun-if-changed={path}");
    println!("cargo::rerun-if-changed=build.rs");
    let bytes = std::fs::read(path)?;
    let descriptors = tonic_prost_build::FileDescriptorSet::decode(bytes.as_slice())?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .extern_path(".macp", "::weft_macp::macp")
        .compile_fds(descriptors)?;
    Ok(())
}
