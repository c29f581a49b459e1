//! The thread that tells the operator's program of outages; what and when says [`crate::monitor::alarms`].

use super::alarm::Program;
use super::monitor::Shared;
use crate::receiver::lock;
use std::time::Duration;

/// How soon an outage is seen.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Until the role is to stop. A program that hangs then is not waited for, and what was not told is told after the next
/// start.
pub(super) fn run(s: &Shared, program: &Program) {
    let mut failed = false;
    loop {
        let quit = s.stop.requested();
        let alarm = if quit && failed { None } else { lock(&s.monitor).alarm(s.clock.mono_ms()) };
        let Some(alarm) = alarm else {
            if quit {
                break;
            }
            s.stop.wait(LOOK_AGAIN);
            continue;
        };
        let done = program.call(&alarm.text, &|| s.stop.requested());
        failed = done.is_err();
        let (said, saved) = {
            let mut m = lock(&s.monitor);
            let said = m.alarmed(&alarm, done, s.clock.mono_ms());
            (said, m.commit(s.clock.now_ms()))
        };
        if let Some(said) = said {
            s.log.error(&format!("alarm_command: {}: {said}", program.name()));
        }
        if let Err(e) = saved {
            s.trouble(&e);
        }
    }
    for text in lock(&s.monitor).untold() {
        let next = "it is told after the next start, if it is still so";
        s.log.error(&format!("alarm_command: this alarm was not told: {text}; {next}"));
    }
}
