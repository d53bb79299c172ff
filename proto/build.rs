//! Generates the gRPC code from `causeway/v1/*.proto`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    tonic_prost_build::configure()
        .btree_map(".")
        .file_descriptor_set_path(out.join("causeway.v1.bin"))
        .compile_protos(
            &[
                "causeway/v1/config.proto",
                "causeway/v1/port.proto",
                "causeway/v1/fabric.proto",
                "causeway/v1/agent.proto",
                "causeway/v1/ready.proto",
                "causeway/v1/history.proto",
                "causeway/v1/ipam.proto",
                "causeway/v1/move.proto",
            ],
            &["."],
        )?;
    Ok(())
}
