//! The program `logd`: parse, run, map the result to an exit code. The map of the source is in `lib.rs`.

// As in `lib.rs`.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::process::ExitCode;

fn main() -> ExitCode {
    // A panic in any thread must end the process, in every profile: half a pipeline that seems alive loses hours.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
    ExitCode::from(logd::cli::run(std::env::args_os().skip(1)))
}
