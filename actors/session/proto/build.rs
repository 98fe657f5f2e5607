//! Compiles the published proto files to Rust messages and to a descriptor set, without protoc.

use std::path::{Path, PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = macp_proto::proto_dir();
    let root = Path::new(&root);
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let descriptors = protox::compile(&files, [root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let path = out.join("macp.bin");
    std::fs::write(&path, descriptors.encode_to_vec())?;
    println!("cargo::metadata=descriptors={}", path.display());
    println!("cargo::rerun-if-changed=build.rs");
    // Services are generated where they are served: see src/lib.rs.
    prost_build::Config::new().include_file("macp.rs").compile_fds(descriptors)?;
    Ok(())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
