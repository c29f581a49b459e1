//! The proof: P1–P5 under crashes, cuts, full disks, damage and lies. One module per row of the table that
//! `tests/prove` prints; each module's header says what it does and what it cannot show. What more than one of them
//! needs is in `support`.
//!
//! `tests/prove` runs it; `cargo test` alone does not, since it takes minutes and parts of it need root.
//!
//! Environment: `LOGD_SOAK=1` the full profile, `LOGD_SEED` the seed of random tests, `LOGD_BIN` the program to test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failing test is meant to panic"
)]

#[path = "proof/certificates.rs"]
mod certificates;
#[path = "proof/crash.rs"]
mod crash;
#[path = "proof/descriptors.rs"]
mod descriptors;
#[path = "proof/flips.rs"]
mod flips;
#[path = "proof/full.rs"]
mod full;
#[path = "proof/fuzz.rs"]
mod fuzz;
#[path = "proof/kill.rs"]
mod kill;
#[path = "proof/network.rs"]
mod network;
#[path = "proof/planted.rs"]
mod planted;
#[path = "proof/power.rs"]
mod power;
#[path = "proof/random.rs"]
mod random;
#[path = "proof/siege.rs"]
mod siege;
#[path = "proof/spool.rs"]
mod spool;
#[path = "proof/state.rs"]
mod state;
#[path = "proof/stuck.rs"]
mod stuck;
mod support;
#[path = "proof/syscalls.rs"]
mod syscalls;
#[path = "proof/tmpfs.rs"]
mod tmpfs;

use support::{peer, sim, store};
