//! The integration tests: one program, one module per property. Each module's header says what it holds us to. What
//! more than one of them needs is in `support`. The evidence for the promises themselves is in `proof.rs`.
//!
//! Environment: `LOGD_BIN` the program to test (else the one that cargo built), `LOGD_SHARED` a directory with real
//! logs, `LOGD_SEED` the seed of random tests. See `README.md` beside this file.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failing test is meant to panic"
)]

#[path = "properties/adopt.rs"]
mod adopt;
#[path = "properties/auth.rs"]
mod auth;
#[path = "properties/commands.rs"]
mod commands;
#[path = "properties/completions.rs"]
mod completions;
#[path = "properties/compressed.rs"]
mod compressed;
#[path = "properties/damage.rs"]
mod damage;
#[path = "properties/descriptors.rs"]
mod descriptors;
#[path = "properties/e2e.rs"]
mod e2e;
#[cfg(feature = "etl")]
#[path = "properties/etl.rs"]
mod etl;
#[path = "properties/failover.rs"]
mod failover;
#[path = "properties/follow.rs"]
mod follow;
#[path = "properties/hostile.rs"]
mod hostile;
#[path = "properties/limits.rs"]
mod limits;
#[path = "properties/monitor.rs"]
mod monitor;
#[path = "properties/original.rs"]
mod original;
#[path = "properties/page.rs"]
mod page;
#[path = "properties/resend.rs"]
mod resend;
#[path = "properties/rotation.rs"]
mod rotation;
#[path = "properties/seen.rs"]
mod seen;
#[path = "properties/strangers.rs"]
mod strangers;
#[path = "properties/streams.rs"]
mod streams;
mod support;
#[path = "properties/tags.rs"]
mod tags;
#[path = "properties/undated.rs"]
mod undated;
#[path = "properties/upgrade.rs"]
mod upgrade;
#[path = "properties/wire.rs"]
mod wire;
#[path = "properties/without.rs"]
mod without;
#[path = "properties/year.rs"]
mod year;

use support::{peer, sim, store};
