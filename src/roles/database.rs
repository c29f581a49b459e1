//! The monitor's database, where this program was built with the feature `mysql`: one thread that delivers.

use super::monitor::Shared;
use crate::config::MonitorConfig;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Makes the tables.
#[cfg(not(feature = "mysql"))]
pub(super) fn init(_: &MonitorConfig) -> Result<(), String> {
    Err("--init-db: this program was built without the feature mysql; build with `cargo build --release --features mysql`".into())
}

/// Starts the thread, if there is a database.
#[cfg(not(feature = "mysql"))]
#[expect(clippy::unnecessary_wraps, reason = "same shape as with the feature")]
pub(super) fn start(_: &MonitorConfig, _: &Arc<Shared>, _: &Path) -> Result<Option<JoinHandle<()>>, String> {
    Ok(None)
}
