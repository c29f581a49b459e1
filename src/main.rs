//! The program `logd`: parse, run, map the result to an exit code. The map of the source is in `lib.rs`.

// As in `lib.rs`.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(logd::cli::run(std::env::args_os().skip(1)))
}
