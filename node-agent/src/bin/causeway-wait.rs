//! Entry point of a container: waits until its ports are ready, then becomes its command.

fn main() -> std::process::ExitCode {
    causeway_wait::client::main(std::env::args_os().skip(1))
}
