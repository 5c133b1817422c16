//! `troupe`: the one binary. Everything is in the library; here is only the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    actors::cli::main()
}
