//! `causeway-wait` alone, to be linked statically: `scripts/build-wait.sh`.

fn main() -> std::process::ExitCode {
    causeway_wait::client::main(std::env::args_os().skip(1))
}
