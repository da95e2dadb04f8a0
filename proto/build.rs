//! Compiles the contract without an installed `protoc`.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "valise/authentication/v1/authentication.proto",
        "valise/directory/v1/directory.proto",
        "valise/delivery/v1/delivery.proto",
    ];
    println!("cargo:rerun-if-changed=protos");
    let descriptors = protox::compile(files, ["protos"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("valise.bin"), prost_encode(&descriptors))?;
    tonic_prost_build::configure()
        // Payloads are passed on, not copied.
        .bytes(".valise.delivery.v1")
        .compile_fds(descriptors)?;
    Ok(())
}

fn prost_encode(descriptors: &impl prost::Message) -> Vec<u8> {
    descriptors.encode_to_vec()
}
