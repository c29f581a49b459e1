//! What logd takes up on disk and in memory. MB = 10^6 bytes.
//!
//! - *binary*: bytes of the program that is measured, as the release profile strips it, and of `target/static/logd`, if
//!   `etc/build-static` has made one.
//! - *RSS right after the start*: `VmRSS` of each role as soon as it says that it serves. The follower has one empty file.
//! - *catch-up*: a follower with the defaults ships 150 MB of unique lines that lie in one file to a collector. `VmHWM` of both,
//!   the most that they ever had, read when the collector's data file has all bytes.
//! - *idle*: `VmRSS` of both 30 s later; 10 minutes with `LOGD_SOAK=1`.
//!
//! Resident memory counts the program's own pages and those of the C library that it touches, shared or not. No clock but for
//! the wait.

use super::lines;
use super::measure::*;
use super::support::{Node, bin, soak, store, until};
use logd::clock::{Clock, Zone};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

const CATCH_UP: u64 = 150_000_000;
const PATIENCE: Duration = Duration::from_mins(10);

/// Where `etc/build-static` puts its result.
fn static_binary() -> PathBuf {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| own.into(), PathBuf::from);
    target.join("static/logd")
}

/// See the header.
pub fn size(report: &mut Report) {
    let bytes = bin().metadata().unwrap().len();
    report.row("size: the binary", bytes as f64 / MB, "MB", Target::AtMost(2.0));
    match static_binary().metadata() {
        Ok(m) => report.row("size: the static binary", m.len() as f64 / MB, "MB", Target::None),
        Err(_) => println!("size: there is no {}; etc/build-static makes it", static_binary().display()),
    }
    memory(report);
}

fn memory(report: &mut Report) {
    let temp = scratch("size");
    let mut store = store(&temp, &[]);
    report.row("size: collector's RSS right after the start", rss(&store), "MB", Target::None);
    let to = store.addr().to_string();
    let relay = Node::start(&temp, "relay", "collector", &[("send_to", &to)], &[]);
    report.row("size: relay's RSS right after the start", rss(&relay), "MB", Target::None);
    drop(relay);

    let hour = Zone::named("UTC").unwrap().hour_at(Clock::real().now_ms()).to_string();
    let follower = |name: &str| {
        let pattern = temp.path(name).join("access.log.<%Y%m%d%H>").display().to_string();
        let keys = [("log_file", pattern.as_str()), ("send_to", &to), ("name", name), ("timezone", "UTC")];
        // The hour may change while this runs.
        let mut node = Node::spawn(&temp, name, "tail", &[&keys[..], &[("start", &hour)]].concat(), &[]);
        node.ready();
        node
    };
    temp.file(&format!("web1/access.log.{hour}"), "");
    report.row(
        "size: follower's RSS right after the start",
        rss(&follower("web1")),
        "MB",
        Target::AtMost(6.0),
    );

    let source = temp.file(&format!("web2/access.log.{hour}"), "");
    println!("lines: {}", lines::write(&source, CATCH_UP));
    let bytes = source.metadata().unwrap().len();
    let follower = follower("web2");
    let stored = temp.path("save").join("log_data").join(format!("web2_{hour}"));
    until(PATIENCE, "the lines", || stored.metadata().is_ok_and(|m| m.len() >= bytes).then_some(()));
    let (tail, collector) = (usage(&follower).rss_mb, usage(&store).rss_mb);
    report.row("size: follower's most RSS in catch-up", tail, "MB", Target::AtMost(12.0));
    report.row("size: collector's most RSS in catch-up", collector, "MB", Target::AtMost(40.0));
    let idle = Duration::from_secs(if soak() { 600 } else { 30 });
    thread::sleep(idle);
    let after = format!("{} s after a catch-up", idle.as_secs());
    report.row(&format!("size: follower's idle RSS, {after}"), rss(&follower), "MB", Target::AtMost(6.0));
    report.row(&format!("size: collector's RSS, {after}"), rss(&store), "MB", Target::AtMost(40.0));
}
