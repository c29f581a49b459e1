//! Lines that check themselves, and the oracle that reads them.

use super::Rng;
use std::fmt::Write as _;

/// Lines that check themselves: each has its stream's name, a number that counts up from 0, and the CRC of itself.
pub struct Lines {
    stream: String,
    next: u64,
    rng: Rng,
}

impl Lines {
    /// A generator; equal seeds give equal lines.
    pub fn new(stream: &str, seed: u64) -> Self {
        Self { stream: stream.into(), next: 0, rng: Rng::new(seed) }
    }

    /// Lines made so far.
    pub fn count(&self) -> u64 {
        self.next
    }

    /// The next line, newline included.
    pub fn line(&mut self) -> String {
        let (path, size) = (self.rng.next_u64(), self.rng.below(9_000));
        // Mostly short, and now and then one that does not fit in a small pack's rest.
        let agent = "Mozilla/5.0 ".repeat(if self.rng.chance(1) { 100 } else { 2 });
        let mut text =
            format!("{} {} \"GET /{path:016x} HTTP/1.1\" 200 {size} \"{agent}\" ", self.stream, self.next);
        self.next += 1;
        let crc = crc32fast::hash(text.as_bytes());
        writeln!(text, "{crc:08x}").unwrap();
        text
    }

    /// The next `n` lines.
    pub fn block(&mut self, n: u64) -> String {
        (0..n).map(|_| self.line()).collect()
    }
}

/// What a stored file of [`Lines`] should not have.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Numbers that are missing.
    pub lost: u64,
    /// Numbers that came before, or out of order.
    pub again: u64,
    /// Lines that are not what was made.
    pub torn: u64,
    /// Good lines.
    pub good: u64,
}

impl Faults {
    /// Adds those of another file.
    pub fn add(&mut self, other: &Faults) {
        self.lost += other.lost;
        self.again += other.again;
        self.torn += other.torn;
        self.good += other.good;
    }
}

/// Reads the lines of one stream; all `lines` of them should be there once, whole and in order.
pub fn check_lines(bytes: &[u8], stream: &str, lines: u64) -> Faults {
    let mut f = Faults::default();
    let mut next = 0;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        match number(line, stream) {
            None => f.torn += 1,
            Some(n) if n < next => f.again += 1,
            Some(n) => {
                f.lost += n - next;
                f.good += 1;
                next = n + 1;
            }
        }
    }
    f.lost += lines.saturating_sub(next);
    f
}

/// The number of a good line, newline included, of that stream.
pub fn number(line: &[u8], stream: &str) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (body, crc) = text.split_at_checked(text.len().checked_sub(8)?)?;
    if u32::from_str_radix(crc, 16).ok()? != crc32fast::hash(body.as_bytes()) {
        return None;
    }
    let mut words = body.split(' ');
    if words.next()? != stream {
        return None;
    }
    words.next()?.parse().ok()
}
