//! The operator's commands. Each is a function from its arguments to an exit code, and prints through [`out::Out`].
//! None of them but the demo, `etl`, `resend`, `spool retry` and `spool salvage` writes a file: they can run at any time, beside a running
//! role or on a copy of a store.
//!
//! * [`check`]: is the config right             * [`ready`]: has every expected host's hour arrived
//! * [`status`]: what is there, what is wrong   * [`verify`]: are the stored bytes what the sources sent
//! * [`spool`]: what waits in a spool, is it whole, what can be saved of it
//! * [`resend`]: have the follower of this host send something again
//! * [`control`]: have a running role stop, or read its configuration again
//! * [`ping`]: would the receiver take a pack of this host
//! * [`init`]: a configuration to begin with
//! * [`cat`]: the lines of an hour
//! * [`prune`]: removes what was certified long ago
//! * [`accept`]: an hour stays as it is, a host sends no more
//! * `documents`: are an hour's documents in the database
//! * [`etl`]: rows of the hours of a store, or of given lines
//! * [`demo`]: a whole pipeline on this machine, a process for each role, its files in a directory of its own
//!
//! They share [`inventory`], the names below a `save_dir`, and [`hour`], the judgement on one hour.

pub mod accept;
pub mod cat;
pub mod check;
pub mod control;
pub mod demo;
#[cfg(feature = "mongodb")]
pub mod documents;
mod effect;
#[cfg(feature = "etl")]
pub mod etl;
pub mod init;
pub mod out;
pub mod ping;
pub mod prune;
pub mod ready;
pub mod resend;
pub mod spool;
pub mod status;
#[cfg(test)]
pub(crate) mod testing;
pub mod verify;

pub use crate::inventory::{self, hour};

/// An error of a role's own files, with what to do: of rights, with who has them.
fn rights(e: &crate::disk::Error) -> String {
    match () {
        () if e.denied() => format!("{e}; run it as the user of the role"),
        () if e.no_space() => format!("{e}; make room there"),
        () => e.to_string(),
    }
}

/// Exit code: done, or yes.
pub const YES: u8 = 0;
/// Exit code: a true no.
pub const NO: u8 = 1;
/// Exit code: it could not be found out.
pub const ERROR: u8 = 2;

#[cfg(test)]
mod tests {
    /// Whose the files are was said of a full disk, too.
    #[test]
    fn an_error_has_the_hint_that_helps() {
        for (errno, hint) in
            [(13, "run it as the user of the role"), (28, "make room there"), (5, "(os error 5)")]
        {
            let source = std::io::Error::from_raw_os_error(errno);
            let e = crate::disk::Error::new("write", std::path::Path::new("/x"), source);
            assert!(super::rights(&e).ends_with(hint), "{}", super::rights(&e));
        }
    }
}
