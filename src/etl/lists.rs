//! The three lists that people keep beside the config: spiders, accepted hosts, dropped addresses. One entry a line; what
//! is wrong is told with file and line, and no list is used in part.

use aho_corasick::AhoCorasick;
use regex::bytes::{RegexSet, RegexSetBuilder};
use std::net::IpAddr;

/// Largest list or columns file, in bytes.
pub const FILE_MAX: u64 = 4 << 20;
/// Largest list of spiders: what is searched for takes some thirty times as much memory.
const SPIDERS_MAX: usize = 1 << 20;
/// Memory that the compiled patterns of one list may take, in bytes; and what is found out about them meanwhile.
const COMPILED_MAX: usize = 4 << 20;
const FOUND_MAX: usize = 2 << 20;

/// The lines that hold an entry, with their numbers.
fn entries(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    (1..).zip(bytes.split(|b| *b == b'\n')).map(|(n, l)| (n, l.trim_ascii())).filter(|(_, l)| !l.is_empty())
}

/// Parts of user agents by which spiders are known.
#[derive(Clone, Debug, Default)]
pub struct Spiders {
    names: Vec<Vec<u8>>,
    /// All of them in one scan.
    scan: Option<AhoCorasick>,
}

impl Spiders {
    /// Reads a list; `#` is no comment, some agents have it in their names.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > SPIDERS_MAX {
            return Err(format!("{file}: {} bytes; a list of spiders may have {SPIDERS_MAX}", bytes.len()));
        }
        let names: Vec<Vec<u8>> = entries(bytes).map(|(_, l)| l.to_vec()).collect();
        if names.is_empty() {
            return Ok(Self::default());
        }
        let scan = AhoCorasick::new(&names).map_err(|e| format!("{file}: {e}"))?;
        Ok(Self { names, scan: Some(scan) })
    }

    /// The first entry of the list that is a part of the user agent.
    pub fn find(&self, agent: &[u8]) -> Option<usize> {
        self.scan.as_ref()?.find_overlapping_iter(agent).map(|m| m.pattern().as_usize()).min()
    }

    /// An entry as it stands in the list.
    pub fn name(&self, n: usize) -> &[u8] {
        self.names.get(n).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Regular expressions of hosts.
#[derive(Clone, Debug)]
pub struct Hosts(RegexSet);

impl Hosts {
    /// Reads a list. Lines that begin with `#` are comments.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, Vec<String>> {
        let (mut patterns, mut wrong) = (Vec::new(), Vec::new());
        for (n, line) in entries(bytes).filter(|(_, l)| !l.starts_with(b"#")) {
            let checked = std::str::from_utf8(line)
                .map_err(|_| "not UTF-8".to_owned())
                .and_then(|text| pattern(text, 1).map(|_| text));
            match checked {
                Ok(text) => patterns.push(text),
                Err(why) => wrong.push(format!("{file}:{n}: {why}")),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        if patterns.is_empty() {
            return Err(vec![format!(
                "{file}: it has no pattern, so every line would be dropped; leave the key out"
            )]);
        }
        let mut set = RegexSetBuilder::new(&patterns);
        set.unicode(false).size_limit(COMPILED_MAX).dfa_size_limit(FOUND_MAX);
        set.build().map(Self).map_err(|e| {
            let n = patterns.len();
            vec![format!("{file}: its {n} patterns together: {}; write fewer or shorter ones", short(&e))]
        })
    }

    /// Is this host on the list?
    pub fn has(&self, host: &[u8]) -> bool {
        self.0.is_match(host)
    }
}

/// A regular expression over bytes, one of `many`: what is found out about all of them meanwhile is bounded.
pub fn pattern(text: &str, many: usize) -> Result<regex::bytes::Regex, String> {
    let share = FOUND_MAX.saturating_mul(4).checked_div(many).unwrap_or(0).clamp(16 << 10, FOUND_MAX);
    let mut built = regex::bytes::RegexBuilder::new(text);
    let built = built.unicode(false).size_limit(1 << 20).dfa_size_limit(share).build();
    built.map_err(|e| format!("`{text}` is no regular expression: {}", short(&e)))
}

/// The last line of the crate's drawing says what is wrong.
fn short(e: &regex::Error) -> String {
    let text = e.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// Addresses and networks.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// First and last of each range, in order, none touching another; v4 in its v6 form.
    ranges: Vec<(u128, u128)>,
}

impl Addresses {
    /// Reads a list; what follows a `#` is a comment.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, Vec<String>> {
        let (mut ranges, mut wrong) = (Vec::new(), Vec::new());
        for (n, line) in entries(bytes) {
            let text = line.split(|b| *b == b'#').next().unwrap_or_default().trim_ascii();
            if text.is_empty() {
                continue;
            }
            match std::str::from_utf8(text).ok().and_then(range) {
                Some(range) => ranges.push(range),
                None => wrong.push(format!(
                    "{file}:{n}: `{}` is no address and no network such as 10.0.0.0/8",
                    String::from_utf8_lossy(text).escape_debug()
                )),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        ranges.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::new();
        for (from, to) in ranges {
            match merged.last_mut() {
                Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        Ok(Self { ranges: merged })
    }

    /// Does the list name nobody?
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Is this address on the list?
    pub fn has(&self, addr: IpAddr) -> bool {
        let bits = bits(addr);
        let at = self.ranges.partition_point(|(from, _)| *from <= bits);
        at.checked_sub(1).and_then(|n| self.ranges.get(n)).is_some_and(|(_, to)| bits <= *to)
    }
}

fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn range(text: &str) -> Option<(u128, u128)> {
    let (addr, len) = match text.split_once('/') {
        Some((addr, len)) if len.bytes().all(|b| b.is_ascii_digit()) => {
            (addr, Some(len.parse::<u32>().ok()?))
        }
        Some(_) => return None,
        None => (text, None),
    };
    let addr: IpAddr = addr.parse().ok()?;
    let width: u32 = if addr.is_ipv4() { 32 } else { 128 };
    let free = width.checked_sub(len.unwrap_or(width))?;
    // A shift by the full width is none at all in Rust.
    let host = u128::MAX.checked_shr(128_u32.saturating_sub(free)).unwrap_or(0);
    let bits = bits(addr);
    Some((bits & !host, bits | host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_of_the_list_counts_not_the_first_in_the_agent() {
        let list = Spiders::parse("s", b"Googlebot\nbot\n\nWget\nGoogle\n").unwrap();
        let name =
            |agent: &[u8]| list.find(agent).map(|n| String::from_utf8_lossy(list.name(n)).into_owned());
        assert_eq!(name(b"bot, or Googlebot/2.1").as_deref(), Some("Googlebot"));
        assert_eq!(name(b"Google and a bot").as_deref(), Some("bot"));
        assert_eq!(name(b"Google \xff").as_deref(), Some("Google"));
        assert_eq!(name(b"Mozilla"), None);
        assert_eq!(Spiders::default().find(b"Googlebot"), None);
        assert!(Spiders::parse("s", &[b'x'; SPIDERS_MAX + 1]).unwrap_err().starts_with("s: 1048577 bytes; "));
    }

    #[test]
    fn hosts_are_matched_and_wrong_patterns_are_named() {
        let list = Hosts::parse("h", b"# ours\n^[a-z,A-Z,\\.]{1,8}\\.hao[12]2[23]\\.com$\r\nx\n").unwrap();
        assert!(list.has(b"www.hao123.com") && list.has(b"x\xff") && !list.has(b"www.hao124.org"));
        let wrong = Hosts::parse("h", b"a\n(\nb\n[z-a]\n\xff\n").unwrap_err();
        assert!(wrong[0].starts_with("h:2: `(` is no regular expression: unclosed group"), "{wrong:?}");
        assert!(wrong[1].starts_with("h:4: ") && wrong[2].starts_with("h:5: not UTF-8"), "{wrong:?}");
        assert!(Hosts::parse("h", b"# none\n").is_err());
        let many: String = (0..20_000).map(|n| format!("^www[0-9]*\\.site{n}\\.(com|org|net)$\n")).collect();
        let wrong = Hosts::parse("h", many.as_bytes()).unwrap_err();
        assert!(wrong[0].starts_with("h: its 20000 patterns together: ") && wrong.len() == 1, "{wrong:?}");
    }

    #[test]
    fn addresses_and_networks() {
        let text = b"# bad ones\n1.2.3.4 # one\n10.1.2.3/8\n10.0.0.0/9\nfe80::/10\n0.0.0.7/32\n::5\n";
        let list = Addresses::parse("a", text).unwrap();
        for (addr, is) in [
            ("1.2.3.4", true),
            ("1.2.3.5", false),
            ("10.255.0.1", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("fe80::1", true),
            ("fec0::", false),
            ("0.0.0.7", true),
            ("::5", true),
            ("::ffff:10.0.0.1", true),
        ] {
            assert_eq!(list.has(addr.parse().unwrap()), is, "{addr}");
        }
        let everyone = Addresses::parse("a", b"0.0.0.0/0\n::/0\n").unwrap();
        assert!(everyone.has("255.255.255.255".parse().unwrap()) && everyone.has("::".parse().unwrap()));
        let wrong = Addresses::parse("a", b"\n1.2.3\n1.2.3.4/33\n::/129\n1.2.3.4/\nhost\n").unwrap_err();
        assert_eq!(wrong.len(), 5, "{wrong:?}");
        assert_eq!(wrong[0], "a:2: `1.2.3` is no address and no network such as 10.0.0.0/8");
        assert!(!Addresses::default().has("1.1.1.1".parse().unwrap()));
    }
}
