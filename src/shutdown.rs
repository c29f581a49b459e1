//! The one way in which a running role is told to stop.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Shared by all threads of a role; once requested, a stop is never taken back.
#[derive(Clone, Default)]
pub struct Shutdown(Arc<(Mutex<bool>, Condvar)>);

impl Shutdown {
    /// Stops on INT, TERM and HUP.
    pub fn on_signals() -> Result<Self, String> {
        let s = Self::default();
        let t = s.clone();
        ctrlc::set_handler(move || t.request()).map_err(|e| format!("cannot handle signals: {e}"))?;
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
