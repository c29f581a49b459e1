//! What a value may look like: one [`Kind`] per key, read and described in one place, so that the parser, the message and
//! the manual cannot disagree.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6};

use super::allow::Allow;
use crate::clock::Hour;
use crate::name;

/// The type of a key's value, with its inclusive range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Free text: a path, a pattern.
    Text,
    /// The path of log files, mostly with `<%Y%m%d%H>` or the like, and perhaps `*`.
    LogFile,
    /// Bytes, from … to: `4096`, `64k`, `8M`, `1G`, `2T`, in powers of 1024; `KiB` and `KB` mean the same as `k`.
    Size(u64, u64),
    /// Milliseconds, from … to: `200ms`, `5s`, `10m`, `24h`, `7d`; a bare number counts seconds.
    Duration(u64, u64),
    /// A plain number, from … to.
    Number(u64, u64),
    /// Permission bits in octal, with the bits that the owner must keep.
    Mode(u32),
    /// One of these words, in any case.
    Choice(&'static [&'static str]),
    /// An address to listen on: `:1302`, `1302`, `host:1302`, `[::1]:1302`.
    Listen,
    /// Addresses to connect to, `host:port`, separated by commas.
    Addresses,
    /// One address to connect to, `host:port`.
    Address,
    /// Addresses and networks that may connect; see [`Allow`].
    Networks,
    /// A program to be run, by its absolute path, and its arguments; one of them is `%s` or holds it.
    Command,
    /// Names or addresses by which a host is called, without ports, separated by commas.
    Hosts,
    /// A sender's name; see [`name::problem`].
    Name,
    /// An IANA time zone that this machine knows.
    Zone,
    /// `beginning`, `oldest`, `end` or an hour `YYYYMMDDHH`.
    Start,
    /// Addresses of a database, perhaps with a user and a password before `@`.
    Uri,
    /// Accepted for the sake of old files; nothing ever read it.
    Ignored,
}

/// A checked value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Bytes, milliseconds, a count or mode bits, by the key's kind.
    Number(u64),
    /// Text in its normal form (words in lower case, addresses with a host).
    Text(String),
}

impl Kind {
    /// Reads a value that is not empty. The error is the part of the message after `key: `.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Text | Self::Uri | Self::Ignored => Ok(Value::Text(text.into())),
            Self::LogFile => log_file(text),
            Self::Size(min, max) => ranged(self, size(text), text, min, max),
            Self::Duration(min, max) => ranged(self, duration_ms(text), text, min, max),
            Self::Number(min, max) => ranged(self, digits(text), text, min, max),
            Self::Mode(owner) => mode(text, owner),
            Self::Choice(words) => {
                let word = text.to_ascii_lowercase();
                if words.contains(&word.as_str()) { Ok(Value::Text(word)) } else { Err(self.refuse(text)) }
            }
            Self::Listen => listen(text).map(Value::Text),
            Self::Addresses => {
                let list: Result<Vec<String>, String> =
                    text.split(',').map(str::trim).map(|a| host_port(a, "localhost", 1)).collect();
                list.map(|l| Value::Text(l.join(",")))
            }
            Self::Address => host_port(text, "localhost", 1).map(Value::Text),
            Self::Command => command(text),
            Self::Networks => Allow::parse(text).map(|_| Value::Text(text.into())),
            Self::Hosts => {
                let list: Vec<String> = text
                    .split(',')
                    .map(|h| h.trim().to_ascii_lowercase())
                    .filter(|h| !h.is_empty())
                    .collect();
                let good = |h: &String| {
                    h.parse::<std::net::IpAddr>().is_ok()
                        || h.len() <= 253
                            && h.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
                };
                match list.iter().find(|h| !good(h)) {
                    None => Ok(Value::Text(list.join(","))),
                    Some(bad) => {
                        Err(format!("`{bad}` is no name of a host and no address; write it without port"))
                    }
                }
            }
            Self::Name => match name::problem(text) {
                None => Ok(Value::Text(text.into())),
                Some(problem) => Err(format!("the name `{text}` {problem}")),
            },
            Self::Zone => match jiff::tz::TimeZone::get(text) {
                Ok(_) => Ok(Value::Text(text.into())),
                Err(_) => Err(format!("`{text}` is no time zone known here; expected {}", self.describe())),
            },
            Self::Start => {
                let word = text.to_ascii_lowercase();
                let known = matches!(word.as_str(), "beginning" | "oldest" | "end");
                if known || Hour::parse(&word).is_some() {
                    Ok(Value::Text(word))
                } else {
                    Err(self.refuse(text))
                }
            }
        }
    }

    /// What may stand there, for messages and the manual: `4k to 16M`.
    pub fn describe(self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::LogFile => "a path, with `<%Y%m%d%H>` in it where each hour has a file".into(),
            Self::Size(min, max) => format!("a size from {} to {}", show_size(min), show_size(max)),
            Self::Duration(min, max) => {
                format!("a time from {} to {}", show_duration(min), show_duration(max))
            }
            Self::Number(min, max) => format!("a number from {min} to {max}"),
            Self::Mode(_) => "octal permission bits such as 0640".into(),
            Self::Choice(words) => words.join(", "),
            Self::Listen => ":port, host:port or [v6]:port".into(),
            Self::Addresses => "host:port, several separated by commas".into(),
            Self::Address => "host:port".into(),
            Self::Networks => "addresses and networks separated by commas, or `any`".into(),
            Self::Command => "an absolute path and arguments, among them %s".into(),
            Self::Hosts => "names or addresses without port, separated by commas".into(),
            Self::Name => "letters, digits and . : + -".into(),
            Self::Zone => "an IANA name such as Asia/Shanghai".into(),
            Self::Start => "beginning, oldest, end or an hour YYYYMMDDHH".into(),
            Self::Uri => "host:port or mongodb://…".into(),
            Self::Ignored => "ignored".into(),
        }
    }

    fn refuse(self, text: &str) -> String {
        format!("`{text}` is not valid; expected {}", self.describe())
    }
}

fn ranged(kind: Kind, number: Option<u64>, text: &str, min: u64, max: u64) -> Result<Value, String> {
    match number {
        Some(n) if (min..=max).contains(&n) => Ok(Value::Number(n)),
        Some(_) => Err(format!("`{text}` is out of range; expected {}", kind.describe())),
        None => Err(kind.refuse(text)),
    }
}

fn digits(text: &str) -> Option<u64> {
    // `parse` alone would take `+5`.
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Cuts `64 KiB` into 64 and `KiB`.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, unit.trim()))
}

/// Bytes; `None` if it is no size or does not fit.
fn size(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// Milliseconds; `None` if it is no duration or does not fit. Units are case-sensitive: `M` would be months to some.
fn duration_ms(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let factor = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

fn show_size(bytes: u64) -> String {
    show(bytes, &[("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("k", 1 << 10)], "")
}

fn show_duration(ms: u64) -> String {
    show(ms, &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)], "ms")
}

fn show(number: u64, units: &[(&str, u64)], smallest: &str) -> String {
    if number == 0 {
        return "0".into();
    }
    units
        .iter()
        .filter(|(_, factor)| number.is_multiple_of(*factor))
        .find_map(|(unit, factor)| Some(format!("{}{unit}", number.checked_div(*factor)?)))
        .unwrap_or_else(|| format!("{number}{smallest}"))
}

fn mode(text: &str, owner: u32) -> Result<Value, String> {
    let bits = text
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| u32::from_str_radix(text, 8).ok())
        .flatten()
        .filter(|bits| *bits <= 0o777)
        .ok_or_else(|| Kind::Mode(owner).refuse(text))?;
    if bits & owner != owner {
        return Err(format!("`{text}` would lock logd itself out; it must include 0{owner:o}"));
    }
    Ok(Value::Number(bits.into()))
}

fn log_file(text: &str) -> Result<Value, String> {
    let inside = text.split_once('<').and_then(|(_, rest)| rest.rsplit_once('>')).map(|(inside, _)| inside);
    match inside {
        Some(inside)
            if inside.contains("%F") || ["%Y", "%m", "%d"].iter().all(|part| inside.contains(part)) =>
        {
            Ok(Value::Text(text.into()))
        }
        Some(inside) => Err(format!("`<{inside}>` must hold %Y, %m and %d (or %F), and %H for hourly files")),
        None if text.contains('<') => Err("`<` without `>`".into()),
        None if text.contains('>') => Err("`>` without `<`".into()),
        None if text.contains('%') => {
            Err(format!("`{text}` has `%` without `<` and `>` around: `<%Y%m%d%H>`"))
        }
        None if text.ends_with('/') => Err(format!("`{text}` is a directory; name the file in it")),
        // One file, which is rotated away.
        None => Ok(Value::Text(text.into())),
    }
}

/// No shell reads it: words are separated by blanks, and quotes would be part of a word.
fn command(text: &str) -> Result<Value, String> {
    let mut words = text.split_whitespace();
    if !words.next().is_some_and(|program| program.starts_with('/') && !program.contains("%s")) {
        return Err(format!("`{text}` does not begin with the absolute path of a program"));
    }
    if text.contains(['"', '\'', '`', '$', '|', ';', '>', '<', '&']) {
        return Err(format!("`{text}`: no shell reads it; put what needs one into a script and name that"));
    }
    if !words.any(|word| word.contains("%s")) {
        return Err(format!("`{text}` has no %s after the program, in whose place the text is put"));
    }
    Ok(Value::Text(text.into()))
}

/// `:1302` and `1302` mean every v4 address, whatever the kernel's dual-stack default is: the peers' names and `allow`
/// lists of an existing fleet are v4. `[::]:1302` listens on v6.
fn listen(text: &str) -> Result<String, String> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        host_port(&format!(":{text}"), "0.0.0.0", 0)
    } else {
        host_port(text, "0.0.0.0", 0)
    }
}

/// Checks `host:port` and puts `empty` where the host is missing, as Go's dialer and listener did.
fn host_port(text: &str, empty: &str, lowest_port: u16) -> Result<String, String> {
    let bad = |why: &str| format!("`{text}` {why}");
    if text.starts_with('[') {
        return match text.parse::<SocketAddrV6>() {
            Ok(address) if address.port() >= lowest_port => Ok(text.into()),
            _ => Err(bad("is not [address]:port")),
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("has no port; write host:port"))?;
    if host.contains(':') {
        return Err(bad("is an IPv6 address without brackets; write [address]:port"));
    }
    let number = digits(port).and_then(|p| u16::try_from(p).ok());
    if number.is_none_or(|p| p < lowest_port) {
        return Err(bad(&format!("has no port from {lowest_port} to 65535")));
    }
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        return Err(bad("is not host:port"));
    }
    // `10.0.0.300` would go to the resolver as a host name and fail there, at run time and without a line number.
    let numeric = !host.is_empty() && host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err(bad("has no valid IPv4 address"));
    }
    Ok(format!("{}:{port}", if host.is_empty() { empty } else { host }))
}

/// Whether a checked listening address can be reached from this machine only.
pub fn is_loopback(listen: &str) -> bool {
    match listen.parse::<SocketAddr>() {
        Ok(address) => address.ip().to_canonical().is_loopback(),
        Err(_) => listen.rsplit_once(':').is_some_and(|(host, _)| host.eq_ignore_ascii_case("localhost")),
    }
}

/// The value with user and password before `@`, and options that are secret, replaced by `***`.
pub(super) fn without_credentials(uri: &str) -> String {
    // The last `@`, since an unescaped one in a password must not let the rest of it through.
    let (mut shown, after) = match uri.rsplit_once('@') {
        None => (String::new(), uri),
        Some((before, after)) => {
            let scheme = before.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
            (format!("{scheme}***@"), after)
        }
    };
    let Some((hosts, options)) = after.split_once('?') else { return shown + after };
    shown += hosts;
    for (n, option) in options.split('&').enumerate() {
        shown.push(if n == 0 { '?' } else { '&' });
        let name = option.split('=').next().unwrap_or_default();
        let lower = name.to_ascii_lowercase();
        if lower.contains("password") || lower == "authmechanismproperties" {
            shown += name;
            shown += "=***";
        } else {
            shown += option;
        }
    }
    shown
}

/// Why a connection string would be read as another one than was meant. Its text is never in the answer.
pub(super) fn misread(uri: &str) -> Option<String> {
    let (user, hosts) = uri.split_once("://").map_or(uri, |(_, rest)| rest).rsplit_once('@')?;
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let bad = |c: char| "/?#[]@:%".contains(c);
    for (what, text) in [("user", user), ("password", password)] {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| bad(*c)) {
            rest = rest.get(at..).unwrap_or_default();
            if c != '%' {
                return Some(format!(
                    "the {what} in front of the last `@` has a `{c}`, which must be written as %{:02X}: user and password must \
                     be percent-encoded, and an `@` elsewhere must be %40",
                    c as u32
                ));
            }
            if rest.get(1..3).is_none_or(|hex| !hex.bytes().all(|b| b.is_ascii_hexdigit())) {
                return Some(format!(
                    "the {what} has a `%` without two digits behind it; a `%` itself is %25"
                ));
            }
            rest = rest.get(3..).unwrap_or_default();
        }
    }
    hosts.is_empty().then(|| "there is no host behind the `@`".into())
}

/// The servers of a connection string, without user, password and options.
pub fn hosts_of(uri: &str) -> &str {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, hosts)| hosts);
    rest.split(['/', '?']).next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("4096", 4096), ("64k", 65536), ("8M", 8 << 20), ("1GiB", 1 << 30), ("2 KB", 2048), ("0", 0)]
        {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in
            ["", "k", "1.5M", "-1", "+1", "1x", "99999999999999999999", "99999999999999G", "1kk", "1 é"]
        {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("200ms", 200),
            ("5s", 5000),
            ("10m", 600_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
            ("3", 3000),
        ] {
            assert_eq!(duration_ms(text), Some(ms), "{text}");
        }
        for text in ["", "s", "1w", "1 M", "0.5s", "-5s", "99999999999999999d"] {
            assert_eq!(duration_ms(text), None, "{text}");
        }
    }

    #[test]
    fn a_value_out_of_range_names_the_range() {
        let error = Kind::Size(4 << 10, 16 << 20).parse("1k").unwrap_err();
        assert_eq!(error, "`1k` is out of range; expected a size from 4k to 16M");
        let error = Kind::Duration(200, 3_600_000).parse("2h").unwrap_err();
        assert_eq!(error, "`2h` is out of range; expected a time from 200ms to 1h");
        assert!(Kind::Number(1, 9).parse("ten").unwrap_err().contains("a number from 1 to 9"));
        assert!(Kind::Number(1, 9).parse("+5").is_err());
        assert_eq!(Kind::Size(1200, 1 << 20).describe(), "a size from 1200 to 1M");
    }

    #[test]
    fn listen_forms() {
        for (text, normal) in [
            (":1302", "0.0.0.0:1302"),
            ("1306", "0.0.0.0:1306"),
            ("localhost:1302", "localhost:1302"),
            ("10.0.0.1:1302", "10.0.0.1:1302"),
            ("[::1]:1302", "[::1]:1302"),
            ("[::]:1302", "[::]:1302"),
            ("127.0.0.1:0", "127.0.0.1:0"),
        ] {
            assert_eq!(listen(text).as_deref(), Ok(normal), "{text}");
        }
        for text in [
            "",
            ":",
            "host",
            "::1:1302",
            "[::1]",
            "[::1]1302",
            "a b:1",
            ":65536",
            ":+80",
            "10.0.0.300:80",
            "h:http",
        ] {
            assert!(listen(text).is_err(), "{text}");
        }
        assert!(is_loopback("127.0.0.1:1") && is_loopback("localhost:1") && is_loopback("[::1]:1"));
        assert!(!is_loopback("0.0.0.0:1") && !is_loopback("web:1") && !is_loopback("[::]:1"));
    }

    #[test]
    fn addresses_to_send_to() {
        assert_eq!(Kind::Addresses.parse("a:1, b:2"), Ok(Value::Text("a:1,b:2".into())));
        assert_eq!(Kind::Addresses.parse(":1302"), Ok(Value::Text("localhost:1302".into())));
        for text in ["1302", "a:0", "a:1,", "http://a:1"] {
            assert!(Kind::Addresses.parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn modes_zones_starts_and_files() {
        assert_eq!(Kind::Mode(0o600).parse("0640"), Ok(Value::Number(0o640)));
        assert!(Kind::Mode(0o600).parse("0444").unwrap_err().contains("0600"));
        for text in ["0888", "1777", "rw-r--r--", "+644"] {
            assert!(Kind::Mode(0o600).parse(text).is_err(), "{text}");
        }
        assert!(Kind::Zone.parse("UTC").is_ok());
        assert!(Kind::Zone.parse("Mars/Olympus").is_err());
        for text in ["beginning", "OLDEST", "end", "2026112205"] {
            assert!(Kind::Start.parse(text).is_ok(), "{text}");
        }
        assert!(Kind::Start.parse("now").is_err());
        assert!(Kind::LogFile.parse("/a/b.<%Y%m%d%H>.log").is_ok());
        assert!(Kind::LogFile.parse("/a/b.log").is_ok());
        for text in ["/a/b.<%H>", "/a/b.%Y%m%d%H", "/a/", "/a/b>", "/a/b.<%Y%m%d"] {
            assert!(Kind::LogFile.parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn credentials_never_show() {
        for (uri, shown) in [
            ("localhost:27017", "localhost:27017"),
            ("mongodb://me:geheim@h1,h2/db?x=y", "mongodb://***@h1,h2/db?x=y"),
            ("me:ge@heim@h1:27017", "***@h1:27017"),
            ("mongodb://me:ge/@heim@h1/", "mongodb://***@h1/"),
            (
                "mongodb://h/?tls=true&tlsCertificateKeyFilePassword=geheim&w=1",
                "mongodb://h/?tls=true&tlsCertificateKeyFilePassword=***&w=1",
            ),
            (
                "mongodb://h/d?authMechanismProperties=AWS_SESSION_TOKEN:geheim",
                "mongodb://h/d?authMechanismProperties=***",
            ),
        ] {
            assert_eq!(without_credentials(uri), shown);
            assert_eq!(without_credentials(shown), shown);
        }
    }
    /// What stands in front of an unescaped `/` was taken for the host, and told in every message.
    #[test]
    fn a_password_that_would_be_taken_for_a_host_is_refused_and_not_told() {
        for uri in [
            "mongodb://me:geheim/@x@h1/",
            "mongodb://me:geheim?x@h1/",
            "mongodb://me:ge:heim@h1/",
            "mongodb://geheim#:x@h1/",
            "mongodb://me:geheim%@h1/",
            "mongodb://me:geheim%4@h1/",
            "mongodb://me:geheim%é@h1/",
            "mongodb://me:geheim@",
        ] {
            let why = misread(uri).unwrap();
            assert!(!why.contains("geheim"), "{why}");
        }
        for uri in ["mongodb://me:a%2F%40%25@h1,h2/d", "mongodb+srv://h1/", "mongodb://me@h1", "h1:27017"] {
            assert_eq!(misread(uri), None);
        }
        assert_eq!(hosts_of("mongodb://me:geheim/@x@h1,h2/d?w=1"), "h1,h2");
        assert_eq!(hosts_of("mongodb://h1:27017/?directConnection=true"), "h1:27017");
    }
}
