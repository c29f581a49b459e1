//! x
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]
#[path = "properties/crash.rs"]
mod crash;
#[path = "properties/follow.rs"]
mod follow;
#[path = "properties/random.rs"]
mod random;
#[path = "properties/sim.rs"]
mod sim;
#[path = "properties/state.rs"]
mod state;
