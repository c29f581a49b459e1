//! The targets behind libFuzzer: one program, which `LOGD_FUZZ_TARGET` gives its target.

#![no_main]

#[path = "../support/keeper.rs"]
mod keeper;
mod targets;

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

fuzz_target!(|bytes: &[u8]| {
    static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("LOGD_FUZZ_TARGET").unwrap_or_default();
        let found = targets::ALL.iter().find(|t| t.0 == name);
        found
            .unwrap_or_else(|| {
                panic!(
                    "LOGD_FUZZ_TARGET={name}: not one of {:?}",
                    targets::ALL.iter().map(|t| t.0).collect::<Vec<_>>()
                )
            })
            .1
    })(bytes);
});
