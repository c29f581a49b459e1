//! The one way in which a running role is told to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Who is stopped by a signal. `ctrlc` calls its handler in a thread of its own, so that it may take a lock.
static LATEST: Mutex<Option<Shutdown>> = Mutex::new(None);
static SIGNALLED: AtomicBool = AtomicBool::new(false);

/// Shared by all threads of a role; once requested, a stop is never taken back.
#[derive(Clone, Default)]
pub struct Shutdown(Arc<(Mutex<bool>, Condvar)>);

impl Shutdown {
    /// Stops on INT, TERM and HUP. A role that begins again in the same process asks again: the latest one is stopped, and a
    /// signal that came in between stops it at once.
    pub fn on_signals() -> Result<Self, String> {
        let s = Self::default();
        let mut latest = LATEST.lock().unwrap_or_else(PoisonError::into_inner);
        let first = latest.replace(s.clone()).is_none();
        drop(latest);
        if first {
            let handler = || {
                SIGNALLED.store(true, Ordering::SeqCst);
                if let Some(s) = &*LATEST.lock().unwrap_or_else(PoisonError::into_inner) {
                    s.request();
                }
            };
            ctrlc::set_handler(handler).map_err(|e| format!("cannot handle signals: {e}"))?;
        }
        if SIGNALLED.load(Ordering::SeqCst) {
            s.request();
        }
        Ok(s)
    }

    /// Asks everybody to stop.
    pub fn request(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Was a stop requested?
    pub fn requested(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps, but not beyond a request; true = stop.
    pub fn wait(&self, time: Duration) -> bool {
        let guard = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) =
            self.0.1.wait_timeout_while(guard, time, |s| !*s).unwrap_or_else(PoisonError::into_inner);
        *guard
    }
}
