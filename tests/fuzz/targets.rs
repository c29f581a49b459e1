//! Fuzz targets: what must hold of every reader of foreign or damaged bytes, whatever the bytes are.
//!
//! Each target takes bytes and asserts properties, not only that nothing panics: round trips, the same result twice,
//! bounds of memory, and that nothing is believed that was not written. `tests/fuzz/run` drives them with libFuzzer,
//! guided by coverage; `tests/proof/fuzz.rs` replays the committed corpus and mutations of it on any toolchain.
//!
//! Most formats carry a CRC, and no fuzzer guesses one. So the first byte of most inputs says how the rest is meant:
//! as the very bytes of the file or stream, or as a [`Script`] that builds something good and damages it in places.
//!
//! The hour targets lie on a simulated disk. Times and ratios are not judged; libFuzzer's own limits are (see `run`).

#![allow(
    clippy::many_single_char_names,
    clippy::naive_bytecount,
    clippy::format_collect,
    clippy::maybe_infinite_iter,
    reason = "small inputs, read in one piece"
)]

#[cfg(feature = "etl")]
#[path = "targets/etl.rs"]
mod etl;
#[path = "targets/files.rs"]
mod files;
#[path = "targets/hour.rs"]
mod hour;
#[path = "targets/wire.rs"]
mod wire;

/// What a target is called and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const ALL: &[Target] = &[
    ("frame", wire::frame),
    ("header", wire::header),
    ("body", wire::body),
    ("spool", files::spool),
    ("journal", files::journal),
    ("footprint", files::footprint),
    ("config", files::config),
    ("proof", hour::proof),
    #[cfg(feature = "etl")]
    ("etl", etl::line),
];

/// Reads decisions from an input, byte by byte; an input that has ended says 0.
pub struct Script<'a>(pub &'a [u8]);

impl<'a> Script<'a> {
    /// Nothing is left.
    pub fn ended(&self) -> bool {
        self.0.is_empty()
    }
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }
    /// The next two bytes.
    pub fn short(&mut self) -> usize {
        usize::from(self.byte()) | usize::from(self.byte()) << 8
    }
    /// A place in something of this length; 0 if it is empty.
    pub fn place(&mut self, len: usize) -> usize {
        self.short().checked_rem(len).unwrap_or(0)
    }
    /// A number: small ones mostly, now and then one with all its bits.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            255 => self.take(8).iter().fold(0, |n, b| n << 8 | u64::from(*b)),
            n => u64::from(n),
        }
    }
    /// The next bytes, at most `n`.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (part, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        part
    }
    /// Damages `bytes` in one place: a flip, a cut, something put in, something taken out.
    pub fn damage(&mut self, bytes: &mut Vec<u8>) {
        let at = self.place(bytes.len() + 1);
        match self.byte() % 4 {
            0 => {
                let mask = self.byte().max(1);
                if let Some(b) = bytes.get_mut(at) {
                    *b ^= mask;
                }
            }
            1 => bytes.truncate(at),
            2 => {
                let n = usize::from(self.byte());
                bytes.splice(at..at, self.take(n).iter().copied());
            }
            _ => {
                let end = (at + usize::from(self.byte())).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
}
