//! The integration tests: one program, one module per property. Each module's header says what it holds us to. Helpers
//! that more than one of them needs are in `support` (real processes) and `sim` (the simulated pipeline).
//!
//! Environment: `LOGD_BIN` the program to test (else the one that cargo built), `LOGD_SHARED` a directory with real
//! logs, `LOGD_SEED` the seed of random tests, `LOGD_SOAK=1` long runs. See `README.md` beside this file.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failing test is meant to panic"
)]

#[path = "properties/adopt.rs"]
mod adopt;
#[path = "properties/crash.rs"]
mod crash;
#[path = "properties/descriptors.rs"]
mod descriptors;
#[path = "properties/e2e.rs"]
mod e2e;
#[path = "properties/follow.rs"]
mod follow;
#[path = "properties/full.rs"]
mod full;
#[path = "properties/hostile.rs"]
mod hostile;
#[path = "properties/kill.rs"]
mod kill;
#[path = "properties/limits.rs"]
mod limits;
#[path = "properties/original.rs"]
mod original;
#[path = "properties/peer.rs"]
mod peer;
#[path = "properties/proof.rs"]
mod proof;
#[path = "properties/random.rs"]
mod random;
#[path = "properties/sim.rs"]
mod sim;
#[path = "properties/state.rs"]
mod state;
#[path = "properties/store.rs"]
mod store;
#[path = "properties/support.rs"]
mod support;
#[path = "properties/wire.rs"]
mod wire;
