//! The roles: stages joined, and the threads that drive them.
//!
//! `follower`, `relay` and `collector` are the cores: plain structs that a test drives without a thread. `serve` and
//! `ship` are the thin shells: who owns which thread, and in which order they stop. A thread has one owner; to stop
//! is to raise [`Shutdown`], let everybody finish what is in hand, and join. A failed sync ends the process at once.

pub mod admission;
mod alarm;
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
use crate::health::Health;
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

/// Watches until when certificates hold: a message a day of those whose end is near, and for `/healthz` those that have ended. A
/// role goes on with such a one: what it has taken is safe, and it may be the clock that is wrong.
#[derive(Default)]
struct Dates {
    look_ms: u64,
    log_ms: u64,
    /// Why the files could not be read again.
    broken: Option<String>,
}

impl Dates {
    /// The files are others now, or could not be read.
    fn read(&mut self, broken: Option<String>) {
        *self = Self { broken, ..Self::default() };
    }

    /// Looks, once a minute, and tells under this word.
    fn look(
        &mut self,
        part: &'static str,
        expiries: impl FnOnce() -> Vec<Expiry>,
        (clock, zone, log, health): (&Clock, &Zone, &Log, &Health),
    ) {
        let now = clock.mono_ms();
        if now < self.look_ms {
            return;
        }
        self.look_ms = now.saturating_add(60_000);
        let told: Vec<_> = expiries().iter().map(|e| e.tell(clock.now_secs(), zone)).collect();
        if now >= self.log_ms {
            self.log_ms = now.saturating_add(24 * 3_600_000);
            for (urgency, text) in &told {
                match urgency {
                    Urgency::None => {}
                    Urgency::Soon => log.warn(text),
                    Urgency::Over => log.error(text),
                }
            }
        }
        let over = told.into_iter().filter(|(urgency, _)| *urgency == Urgency::Over).map(|(_, text)| text);
        let why: Vec<String> = self.broken.iter().cloned().chain(over).collect();
        health.set(part, (!why.is_empty()).then(|| why.join("; ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_ends_while_the_role_runs_is_told_within_a_minute() {
        let ((disk, _), (clock, handle)) = (Disk::sim(1), Clock::sim(1_795_000_000_000));
        let zone = Zone::named("UTC").unwrap();
        let conf = crate::config::LogConfig { level: crate::config::Level::Error, dir: Some("/l".into()) };
        let (log, health) = (Log::new("tail", &conf, &disk, &clock, &zone), Health::default());
        let end = clock.now_secs().unsigned_abs() + 90;
        let mut dates = Dates::default();
        let look = |dates: &mut Dates, pass_ms: u64| {
            handle.advance(pass_ms);
            let one =
                Expiry { key: "tls_cert", path: "/c.pem".into(), not_after: Some(end), not_before: None };
            dates.look("tls", || vec![one], (&clock, &zone, &log, &health));
            health.turned(0);
            health.problems(0).join("|")
        };
        assert_eq!(look(&mut dates, 0), "", "it is only soon");
        assert_eq!(look(&mut dates, 60_000), "");
        let over = look(&mut dates, 60_000);
        assert!(over.starts_with("tls: tls_cert: /c.pem: expired at "), "{over}");
        dates.read(Some("no such file".into()));
        let both = look(&mut dates, 0);
        assert!(both.starts_with("tls: no such file; tls_cert: "), "{both}");
    }
}
