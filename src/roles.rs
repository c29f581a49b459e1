//! The roles: stages joined, and the threads that drive them.
//!
//! `follower`, `relay` and `collector` are the cores: plain structs that a test drives without a thread. `serve` and
//! `ship` are the thin shells: who owns which thread, and in which order they stop. A thread has one owner; to stop
//! is to raise [`Shutdown`], let everybody finish what is in hand, and join. A failed sync ends the process at once.

pub mod admission;
mod alarm;
pub mod beyond;
pub mod collector;
mod compress;
mod control;
mod database;
pub mod denied;
pub mod documents;
mod fleet;
pub mod follower;
mod monitor;
mod outages;
mod pulse;
pub mod relay;
mod report;
mod serve;
mod ship;
mod start;
pub mod tables;
mod verifying;
pub mod watch;
pub mod web;
pub mod whole;

pub use start::{RunOptions, host_name, own_name, run};

use crate::clock::{Clock, Zone};
use crate::disk::{self, Disk};
use crate::log::Log;
use crate::shutdown::Shutdown;
use crate::tls::{Expiry, Urgency};

/// How often a sender writes down what of its spool is done: a killed one sends so much again.
const MARKS_MS: u64 = 5_000;
/// How long whoever met a disk error leaves the disk alone.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// Ends the process when nothing that the disk says can be believed any more; anything else is a pause.
fn disk_trouble(disk: &Disk, log: &Log, stop: &Shutdown, e: &disk::Error) {
    disk_error(disk, log, e);
    stop.wait(PAUSE);
}

/// The same for a thread that has other things to do meanwhile.
fn disk_error(disk: &Disk, log: &Log, e: &disk::Error) {
    if e.fatal() || disk.failure().is_some() {
        log.error(&format!(
            "{e}; stopping: after a failed sync nothing may be acknowledged; packs are kept and sent again"
        ));
        std::process::exit(2);
    }
    let word = if e.no_space() { "paused: disk: " } else { "" };
    log.error(&format!("{word}{e}; nothing is lost, trying again"));
}

/// Certificates whose end is near. A role goes on with one that has ended: what it has taken is safe, and it may be the clock
/// that is wrong.
fn tell_expiries(expiries: &[Expiry], clock: &Clock, zone: &Zone, log: &Log) {
    for expiry in expiries {
        match expiry.tell(clock.now_secs(), zone) {
            (Urgency::None, _) => {}
            (Urgency::Soon, text) => log.warn(&text),
            (Urgency::Over, text) => log.error(&text),
        }
    }
}
