//! `log_format`: which value stands where in a line. Compiled once; a line is then cut by searching for the few bytes
//! between two values, and nothing is allocated.

use memchr::{memchr, memchr2};

/// As nginx and Apache call them. Apache's second word (ident) is `-` nearly always, but not always.
const COMMON: &str =
    r#"$remote_addr $remote_ident $remote_user [$time_local] "$request" $status $body_bytes_sent"#;
const COMBINED: &str = r#"$remote_addr $remote_ident $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent""#;
/// The layout that the original's ETL read. Cookies are words of their own; what stands after the client's address is
/// for nobody.
const ORIGINAL: &str = r#"$host $remote_addr $_ident $_user [$time_local] "$request" $status $body_bytes_sent $_ "$http_referer" $http_cookie "$http_user_agent" "$http_x_forwarded_for"$_rest"#;

/// Longest format and most values in it: a line of a config is never as long.
const LONGEST: usize = 4096;

/// A range of the line, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// The byte behind the last one.
    pub end: usize,
}

impl Span {
    /// Bytes.
    #[allow(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// The bytes of `text` that it covers.
    pub fn of(self, text: &[u8]) -> &[u8] {
        text.get(self.start..self.end).unwrap_or_default()
    }
}

/// A value, and what stands behind it.
#[derive(Clone, Debug)]
struct Value {
    name: String,
    /// It stands between double quotes: `\"` in it is no end.
    quoted: bool,
    /// Bytes behind it; none = it goes to the end of the line.
    until: Vec<u8>,
    /// The reason why a line is rejected if they are not there.
    missing: String,
}

/// Where the values are that have a meaning. The number of a value in the format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the value of that name")]
pub struct Slots {
    pub host: Option<u16>,
    pub ip: Option<u16>,
    pub user: Option<u16>,
    pub time_local: Option<u16>,
    pub time_iso: Option<u16>,
    pub time_unix: Option<u16>,
    pub request: Option<u16>,
    pub method: Option<u16>,
    pub url: Option<u16>,
    pub path: Option<u16>,
    pub query: Option<u16>,
    pub protocol: Option<u16>,
    pub status: Option<u16>,
    pub bytes: Option<u16>,
    pub referer: Option<u16>,
    pub agent: Option<u16>,
    pub forwarded: Option<u16>,
    pub cookies: Option<u16>,
}

/// A compiled `log_format`.
#[derive(Clone, Debug)]
pub struct Format {
    first: Vec<u8>,
    values: Vec<Value>,
    /// Which value means what.
    pub slots: Slots,
    /// It is the original's layout, in which the client's address takes the place of the peer's.
    pub original: bool,
}

/// Reason of a rejected line: it does not begin as the format does.
const BEGINNING: &str = "log_format: the line does not begin as the format does";
/// Reason of a rejected line.
const TOO_LONG: &str = "log_format: the line goes on behind its last value";

impl Format {
    /// Compiles `common`, `combined`, `original`, or what nginx's `log_format` takes. The error is the part of a message behind
    /// `log_format: `.
    pub fn compile(text: &str) -> Result<Self, String> {
        let (text, original) = match text.trim() {
            "common" => (COMMON, false),
            "combined" => (COMBINED, false),
            "original" => (ORIGINAL, true),
            other => (other, false),
        };
        if text.len() > LONGEST {
            return Err(format!("{} bytes long; at most {LONGEST}", text.len()));
        }
        let mut parts = text.split('$');
        let first = parts.next().unwrap_or_default().as_bytes().to_vec();
        let mut values: Vec<Value> = Vec::new();
        let mut before = first.clone();
        for part in parts {
            let (name, until) = if let Some(rest) = part.strip_prefix('{') {
                rest.split_once('}').ok_or_else(|| format!("`${part}`: the name has no `}}` behind it"))?
            } else {
                let end = part.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
                part.split_at(end.unwrap_or(part.len()))
            };
            if name.is_empty() {
                return Err(format!("`${part}`: a `$` begins a name, such as $status"));
            }
            if values.last().is_some_and(|v| v.until.is_empty()) {
                return Err(format!(
                    "nothing stands between ${name} and the value before it: nobody could tell where one ends"
                ));
            }
            if !name.starts_with('_') && values.iter().any(|v| v.name == name) {
                return Err(format!("${name} stands in it twice"));
            }
            let quoted = before.ends_with(b"\"") && until.starts_with('"');
            // A reason is a column of etl_reject.
            let shown = until.replace('\t', "\\t");
            let missing = format!("log_format: no `{shown}` behind ${name}");
            let until = until.as_bytes().to_vec();
            before.clone_from(&until);
            values.push(Value { name: name.to_owned(), quoted, until, missing });
        }
        if values.is_empty() {
            return Err(format!(
                "`{text}` is neither combined, common nor original, and no format with $names such as $remote_addr"
            ));
        }
        let slots = slots(&values);
        if slots.time_local.or(slots.time_iso).or(slots.time_unix).is_none() {
            return Err("no $time_local, $time_iso8601 or $msec in it: day and hour come from there".into());
        }
        Ok(Self { first, values, slots, original })
    }

    /// The number of the value with this name.
    pub fn value(&self, name: &str) -> Option<u16> {
        (0..).zip(&self.values).find(|(_, v)| v.name == name).map(|(n, _)| n)
    }

    /// Where each value of a line is; the reason if the line has another format. `plain`: there is no backslash in it.
    pub fn cut(&self, line: &[u8], plain: bool, spans: &mut Vec<Span>) -> Result<(), &str> {
        spans.clear();
        if !begins(line, &self.first) {
            return Err(BEGINNING);
        }
        let mut at = self.first.len();
        for (n, value) in self.values.iter().enumerate() {
            let rest = line.get(at..).unwrap_or_default();
            let last = n.saturating_add(1) == self.values.len();
            let Some(len) = value.len_in(rest, plain, last) else { return Err(&value.missing) };
            let end = at.saturating_add(len);
            spans.push(Span { start: at, end });
            at = end.saturating_add(value.until.len());
        }
        if at < line.len() { Err(TOO_LONG) } else { Ok(()) }
    }
}

impl Value {
    /// How long it is at the beginning of `rest`. What ends the whole line must stand at its end.
    fn len_in(&self, rest: &[u8], plain: bool, last: bool) -> Option<usize> {
        let Some((first, more)) = self.until.split_first() else { return Some(rest.len()) };
        let mut at = 0_usize;
        if !self.quoted {
            // A single blank mostly.
            loop {
                at = at.saturating_add(search(*first, rest.get(at..)?)?).saturating_add(1);
                if begins(rest.get(at..)?, more) {
                    return Some(at.saturating_sub(1));
                }
            }
        }
        loop {
            let tail = rest.get(at..).unwrap_or_default();
            let found = if plain { memchr(b'"', tail) } else { memchr2(b'"', b'\\', tail) };
            let Some(found) = found else {
                // A server cut the line off within its last value, which is as good as any; it happens in real logs.
                return (last && self.until == b"\"").then_some(rest.len());
            };
            at = at.saturating_add(found);
            if rest.get(at) == Some(&b'\\') {
                at = at.saturating_add(2);
                continue;
            }
            // A quote that nobody escaped is a part of the value if the line does not go on behind it as it should. In the
            // last value it is not: the line may have more values than the format.
            let ends = begins(rest.get(at..)?, &self.until);
            if last || ends {
                return ends.then_some(at);
            }
            at = at.saturating_add(1);
        }
    }
}

/// As `memchr`. Most of these values are a few bytes long, and a call would cost more than its search.
fn search(byte: u8, text: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut at = 0_usize;
    for eight in text.as_chunks::<8>().0.iter().take(4) {
        // The lowest zero byte of a word, of which the borrow has passed none before it.
        let word = u64::from_le_bytes(*eight) ^ ONES.wrapping_mul(u64::from(byte));
        let zero = word.wrapping_sub(ONES) & !word & ONES.wrapping_shl(7);
        if zero != 0 {
            return Some(at.saturating_add((zero.trailing_zeros() / 8) as usize));
        }
        at = at.saturating_add(8);
    }
    Some(memchr(byte, text.get(at..)?)?.saturating_add(at))
}

/// As `starts_with`, for the few bytes that stand between two values: without a call.
fn begins(text: &[u8], with: &[u8]) -> bool {
    text.len() >= with.len() && text.iter().zip(with).all(|(a, b)| a == b)
}

fn slots(values: &[Value]) -> Slots {
    let mut s = Slots::default();
    for (n, value) in (0..).zip(values) {
        let slot = match value.name.as_str() {
            "host" | "http_host" | "server_name" => &mut s.host,
            "remote_addr" | "realip_remote_addr" | "remote_host" => &mut s.ip,
            "remote_user" => &mut s.user,
            "time_local" => &mut s.time_local,
            "time_iso8601" => &mut s.time_iso,
            "msec" => &mut s.time_unix,
            "request" => &mut s.request,
            "request_method" => &mut s.method,
            "request_uri" => &mut s.url,
            "uri" | "document_uri" => &mut s.path,
            "args" | "query_string" => &mut s.query,
            "server_protocol" => &mut s.protocol,
            "status" => &mut s.status,
            "body_bytes_sent" | "bytes_sent" => &mut s.bytes,
            "http_referer" => &mut s.referer,
            "http_user_agent" => &mut s.agent,
            "http_x_forwarded_for" => &mut s.forwarded,
            "http_cookie" => &mut s.cookies,
            _ => continue,
        };
        slot.get_or_insert(n);
    }
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(format: &str, line: &[u8]) -> Result<Vec<String>, String> {
        let format = Format::compile(format).unwrap();
        let mut spans = Vec::new();
        format.cut(line, !line.contains(&b'\\'), &mut spans).map_err(str::to_owned)?;
        Ok(spans.iter().map(|s| String::from_utf8_lossy(s.of(line)).into_owned()).collect())
    }

    #[test]
    fn lines_of_the_named_formats_are_cut() {
        let line =
            br#"::1 - jo hn [17/May/2015:10:05:03 +0000] "GET /a?b=c HTTP/1.1" 200 - "-" "M \"x\" \\""#;
        let values = cut("combined", line).unwrap();
        assert_eq!(
            values,
            [
                "::1",
                "-",
                "jo hn",
                "17/May/2015:10:05:03 +0000",
                "GET /a?b=c HTTP/1.1",
                "200",
                "-",
                "-",
                r#"M \"x\" \\"#
            ]
        );
        let line = br#"1.2.3.4 - - [17/May/2015:10:05:03 +0000] "" 408 0"#;
        assert_eq!(cut("common", line).unwrap()[4..], ["", "408", "0"]);
        let line = br#"www.a.com 1.2.3.4 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.0" 200 5 7 "http://r/" A=1; B=2 "agent" "9.8.7.6" more of it"#;
        let values = cut("original", line).unwrap();
        assert_eq!(values[0], "www.a.com");
        assert_eq!(values[9..], ["http://r/", "A=1; B=2", "agent", "9.8.7.6", " more of it"]);
    }

    #[test]
    fn quotes_that_nobody_escaped_belong_to_the_value_if_the_line_goes_on_otherwise() {
        let line = br#"1.1.1.1 - - [17/May/2015:10:05:03 +0000] "GET /"x"y HTTP/1.1" 200 1 "a "b"c" "d""#;
        let values = cut("combined", line).unwrap();
        assert_eq!((values[4].as_str(), values[7].as_str()), (r#"GET /"x"y HTTP/1.1"#, r#"a "b"c"#));
        // But not in the last value: this line has one more than the format.
        let line = br#"1.1.1.1 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 1 "-" "a" "1.2.3.4""#;
        assert_eq!(cut("combined", line).unwrap_err(), TOO_LONG);
    }

    #[test]
    fn another_format_is_told_by_what_is_missing() {
        let line = br#"1.1.1.1 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 1"#;
        assert_eq!(cut("combined", line).unwrap_err(), "log_format: no ` \"` behind $body_bytes_sent");
        let line = br#"1.1.1.1 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 1 "-"#;
        assert_eq!(cut("combined", line).unwrap_err(), "log_format: no `\" \"` behind $http_referer");
        // Cut off within the last value.
        for agent in ["agent", "agent\\", ""] {
            let line =
                format!(r#"1.1.1.1 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 1 "-" "{agent}"#);
            assert_eq!(cut("combined", line.as_bytes()).unwrap()[8], agent);
        }
        assert_eq!(cut("<$msec>", b"1").unwrap_err(), BEGINNING);
        assert_eq!(cut("<$msec>", b"<1>2").unwrap_err(), TOO_LONG);
        assert_eq!(cut("$msec\t$a", b"1").unwrap_err(), r"log_format: no `\t` behind $msec");
        assert_eq!(cut("$msec", b"").unwrap(), [""]);
        assert_eq!(cut("${msec}0 $x", b"10 ").unwrap(), ["1", ""]);
    }

    #[test]
    fn a_search_finds_the_first_one() {
        for len in 0..40 {
            let mut text = vec![b'!'; len];
            assert_eq!(search(b' ', &text), None);
            for at in (0..len).rev() {
                text[at] = b' ';
                assert_eq!(search(b' ', &text), Some(at));
            }
        }
        let odd: Vec<u8> = (0..=255).rev().collect();
        for byte in 0..=255_u8 {
            assert_eq!(search(byte, &odd), Some(255 - usize::from(byte)));
        }
    }

    #[test]
    fn formats_that_cannot_be_read_are_refused() {
        for (text, why) in [
            ("", "neither"),
            ("combine", "neither"),
            ("$status", "time_local"),
            ("$msec$status", "nothing stands between"),
            ("$msec $", "begins a name"),
            ("${msec", "no `}`"),
            ("$msec $a $a", "twice"),
        ] {
            let error = Format::compile(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
