//! The packer: where one pack ends and the next begins.
//!
//! Takes bytes and a clock, returns decisions; it reads nothing and waits for nothing. Only complete lines go into a
//! pack, whole blocks at a time: no line is looked at by itself. A line longer than `max_line` is shipped in parts.

use crate::pack::Seal;

/// Where to cut.
#[derive(Clone, Debug)]
pub struct PackerConfig {
    /// Raw size at which a pack is cut, in bytes.
    pub pack_bytes: usize,
    /// Longest line that is kept in one piece, in bytes.
    pub max_line: usize,
    /// Lines at which a pack is cut, if set (`recv_buffer_size`).
    pub lines_per_pack: Option<u64>,
    /// Time after the first line at which a pack is cut, in ms.
    pub flush_ms: u64,
}

/// A pack that is cut and not numbered yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Filled {
    /// The raw lines.
    pub raw: Vec<u8>,
    /// Newlines in it.
    pub lines: u64,
    /// Its digests.
    pub seal: Seal,
}

/// The pack being filled.
pub struct Packer {
    conf: PackerConfig,
    raw: Vec<u8>,
    lines: u64,
    full: bool,
    first_ms: u64,
}

impl Packer {
    /// An empty pack.
    pub fn new(conf: PackerConfig) -> Self {
        Self { conf, raw: Vec::new(), lines: 0, full: false, first_ms: 0 }
    }

    /// Bytes that wait to be cut.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Is nothing waiting?
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// How many bytes are worth reading for the next [`Packer::push`].
    pub fn wants(&self) -> usize {
        let room = self.conf.pack_bytes.saturating_sub(self.raw.len()).saturating_add(1);
        if self.raw.is_empty() { room.max(self.conf.max_line.saturating_add(1)) } else { room }
    }

    /// Takes complete lines from the beginning of `block` and returns how many bytes they are. With `last`, nothing
    /// will ever follow the block, and an unterminated line is taken, too.
    pub fn push(&mut self, block: &[u8], last: bool, now_ms: u64) -> usize {
        if self.full || block.is_empty() {
            return 0;
        }
        let room = self.conf.pack_bytes.saturating_sub(self.raw.len());
        let window = block.get(..room).unwrap_or(block);
        let mut take = memchr::memrchr(b'\n', window).map_or(0, |n| n.saturating_add(1));
        let fits = block.len() <= room;
        if take == 0 {
            if !self.raw.is_empty() {
                self.full = !fits;
            } else if let Some(n) = memchr::memchr(b'\n', block.get(..self.conf.max_line).unwrap_or(block)) {
                // A line that is larger than a pack is a pack.
                take = n.saturating_add(1);
                self.full = true;
            } else if block.len() >= self.conf.max_line {
                take = self.conf.max_line;
                self.full = true;
            } else if last {
                take = block.len();
            }
        } else {
            self.full = !fits;
        }
        if last && fits {
            take = block.len();
        }
        let (mut taken, _) = block.split_at(take);
        let mut newlines = memchr::memchr_iter(b'\n', taken).count() as u64;
        if let Some(limit) = self.conf.lines_per_pack {
            let left = limit.saturating_sub(self.lines);
            if newlines >= left {
                let end = memchr::memchr_iter(b'\n', taken).nth((left as usize).saturating_sub(1));
                taken = taken.get(..end.map_or(taken.len(), |n| n.saturating_add(1))).unwrap_or(taken);
                newlines = left;
                self.full = true;
            }
        }
        if self.raw.is_empty() && !taken.is_empty() {
            self.first_ms = now_ms;
            // A full block says that more follows: growing step by step would leave holes of half a pack.
            self.raw.reserve(self.conf.pack_bytes.min(taken.len().saturating_mul(8)));
        }
        self.raw.extend_from_slice(taken);
        self.lines = self.lines.saturating_add(newlines);
        taken.len()
    }

    /// Should the pack be cut now? `at_end` = nothing more can be read at the moment.
    pub fn is_due(&self, at_end: bool, now_ms: u64) -> bool {
        let waited = now_ms.saturating_sub(self.first_ms) >= self.conf.flush_ms;
        !self.raw.is_empty() && (self.full || self.raw.len() >= self.conf.pack_bytes || (at_end && waited))
    }

    /// Cuts; `spare` is an empty buffer to go on with, so that memory is used again.
    pub fn cut(&mut self, spare: Vec<u8>) -> Filled {
        let raw = std::mem::replace(&mut self.raw, spare);
        self.raw.clear();
        self.full = false;
        Filled { lines: std::mem::take(&mut self.lines), seal: Seal::of(&raw), raw }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::Rng;

    fn packer(pack_bytes: usize, max_line: usize, lines: Option<u64>) -> Packer {
        Packer::new(PackerConfig { pack_bytes, max_line, lines_per_pack: lines, flush_ms: 5000 })
    }

    /// Feeds `text` like a follower does: reads what the packer wants, cuts when due, closes at the end.
    fn packs(mut p: Packer, text: &[u8]) -> Vec<Filled> {
        let (mut at, mut out) = (0, Vec::new());
        loop {
            let end = (at + p.wants()).min(text.len());
            let n = p.push(&text[at..end], end == text.len(), 0);
            at += n;
            if p.is_due(false, 0) || (n == 0 && !p.is_empty()) {
                out.push(p.cut(Vec::new()));
            } else if n == 0 {
                return out;
            }
        }
    }

    #[test]
    fn packs_are_whole_lines_within_the_size() {
        let out = packs(packer(10, 100, None), b"aaaa\nbbbb\ncc\ndddddddd\n");
        let raws: Vec<&[u8]> = out.iter().map(|f| &f.raw[..]).collect();
        assert_eq!(raws, [&b"aaaa\nbbbb\n"[..], b"cc\n", b"dddddddd\n"]);
    }

    #[test]
    fn a_line_larger_than_a_pack_is_a_pack_and_one_beyond_max_line_comes_in_parts() {
        let out = packs(packer(4, 8, None), b"a\n1234567\n0123456789ABCDEF\nz");
        let raws: Vec<&[u8]> = out.iter().map(|f| &f.raw[..]).collect();
        assert_eq!(raws, [&b"a\n"[..], b"1234567\n", b"01234567", b"89ABCDEF", b"\nz"]);
        assert_eq!(out.iter().map(|f| f.lines).sum::<u64>(), 3);
    }

    #[test]
    fn line_limit_is_exact() {
        let out = packs(packer(1000, 1000, Some(2)), b"1\n2\n3\n4\n5\n");
        assert_eq!(out.iter().map(|f| f.lines).collect::<Vec<_>>(), [2, 2, 1]);
    }

    #[test]
    fn a_started_line_waits_and_a_pack_is_flushed_in_time() {
        let mut p = packer(1000, 1000, None);
        assert_eq!(p.push(b"one\ntw", false, 100), 4);
        assert!(!p.is_due(true, 5099));
        assert!(p.is_due(true, 5100));
        assert!(!p.is_due(false, 9999), "in catch-up only sizes cut");
    }

    #[test]
    fn any_text_comes_out_as_it_went_in() {
        let seed = std::env::var("LOGD_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7);
        println!("seed: {seed}");
        let mut rng = Rng::new(seed);
        for _ in 0..500 {
            let len = rng.below(400) as usize;
            let text: Vec<u8> = (0..len).map(|_| if rng.chance(15) { b'\n' } else { b'x' }).collect();
            let size = 1 + rng.below(30) as usize;
            let lines = rng.chance(50).then(|| 1 + rng.below(5));
            let out = packs(packer(size, 1 + rng.below(40) as usize, lines), &text);
            let back: Vec<u8> = out.iter().flat_map(|f| f.raw.clone()).collect();
            assert_eq!(back, text);
            for f in out {
                assert_eq!(f.seal, Seal::of(&f.raw));
                assert_eq!(f.lines as usize, memchr::memchr_iter(b'\n', &f.raw).count());
            }
        }
    }
}
