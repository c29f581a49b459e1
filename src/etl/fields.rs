//! The values of one line, by name. [`Record`] holds the buffers and is used again for each line; a value is a slice of the
//! line or of one of its buffers.
//!
//! Decoding is done once per line and only if a column or a rule asks for it: what the server escaped (`\"`, `\\`,
//! `\xHH`, `\n` …), the query's parameters (`%HH`, `+`), cookies. Nothing is taken for text here: rules see bytes that are no
//! UTF-8 as they are, and rows have them in their own way ([`super::text`]).

use super::format::{Format, Slots, Span};
use super::lists::Spiders;
use super::memo::Memo;
use super::number::{address, put_int, put_signed};
use super::stamp::Stamp;
use super::text::{escape, is_plain, percent, unescape};
use std::collections::HashMap;
use std::io::Write as _;
use std::net::IpAddr;

/// More parameters or cookies than this in one line are an attack.
const PARAMS_MAX: usize = 1_000;
/// Between two parameters of the whole map, and between a name and its value: what Hive takes by default.
const MAP_ITEM: u8 = 2;
const MAP_KEY: u8 = 3;

/// Reason of a rejected line.
const NO_TIME: &str = "its time cannot be read";
/// Reason of a rejected line.
const MANY_PARAMS: &str = "more than 1000 query parameters";
/// Reason of a rejected line.
const MANY_COOKIES: &str = "more than 1000 cookies";
/// So many parameters are compared each with each, which is cheaper than to look them up.
const COMPARED: usize = 64;

/// What a column, a partition or a rule asks of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// Nothing: an empty column.
    Empty,
    /// Always the same.
    Fixed(Box<str>),
    /// The host that the line names, else the sender.
    Host,
    /// Whose file it is.
    Source,
    /// The hour of the file.
    SourceHour,
    /// The peer's address.
    Ip,
    /// The same as an integer.
    IpInt,
    /// The address that a proxy tells, else the peer's.
    ClientIp,
    /// The same as an integer.
    ClientIpInt,
    /// Who was logged in.
    User,
    /// `2015-05-17T10:05:03+00:00`.
    Time,
    /// `2015-05-17 10:05:03`.
    Timestamp,
    /// Seconds since 1970.
    Unix,
    /// `2015-05-17`.
    Date,
    /// `20150517`.
    Day,
    /// `10`.
    Hour,
    /// `GET`.
    Method,
    /// `HTTP/1.1`.
    Protocol,
    /// As requested.
    Url,
    /// The URL up to its `?`, without scheme and host.
    Path,
    /// What is behind the `?`.
    Query,
    /// All parameters.
    Params,
    /// One parameter, decoded.
    Param(Box<[u8]>),
    /// As it was answered.
    Status,
    /// Bytes of the answer.
    Bytes,
    /// Where the client came from.
    Referer,
    /// What it calls itself.
    Agent,
    /// One cookie.
    Cookie(Box<[u8]>),
    /// 1 if the user agent is on the list.
    IsSpider,
    /// Which entry of the list.
    Spider,
    /// A value of `log_format` by its number.
    Value(u16),
    /// The whole line.
    Line,
}

/// The names of fields; the first of several is the one to use, the others are those of the original.
const NAMES: &[(&[&str], Field)] = &[
    (&["host"], Field::Host),
    (&["source"], Field::Source),
    (&["source_hour"], Field::SourceHour),
    (&["ip"], Field::Ip),
    (&["ip_int", "ipinlong"], Field::IpInt),
    (&["client_ip"], Field::ClientIp),
    (&["client_ip_int"], Field::ClientIpInt),
    (&["user"], Field::User),
    (&["time"], Field::Time),
    (&["timestamp"], Field::Timestamp),
    (&["unix"], Field::Unix),
    (&["date"], Field::Date),
    (&["day"], Field::Day),
    (&["hour"], Field::Hour),
    (&["method", "httpmethod"], Field::Method),
    (&["protocol", "httpversion"], Field::Protocol),
    (&["url"], Field::Url),
    (&["path", "urlpath"], Field::Path),
    (&["query"], Field::Query),
    (&["params", "urlparams"], Field::Params),
    (&["status", "httpstatus"], Field::Status),
    (&["bytes"], Field::Bytes),
    (&["referer"], Field::Referer),
    (&["user_agent", "useragent"], Field::Agent),
    (&["is_spider", "isspider"], Field::IsSpider),
    (&["spider", "spiderdetail"], Field::Spider),
    (&["line"], Field::Line),
];

impl Field {
    /// The field of a column's name: a name above; `$name`, a value of the log format; `cookie.name`; `param.name`; any other
    /// name is a parameter's.
    pub fn named(name: &str, format: &Format) -> Result<Self, String> {
        if name.is_empty() {
            return Ok(Self::Empty);
        }
        // The original wrote no zone.
        if name == "time" && format.original {
            return Ok(Self::Timestamp);
        }
        if let Some((_, field)) = NAMES.iter().find(|(names, _)| names.contains(&name)) {
            return Ok(field.clone());
        }
        if let Some(value) = name.strip_prefix('$') {
            return format.value(value).map(Self::Value).ok_or_else(|| format!("log_format has no ${value}"));
        }
        let bytes = |n: &str| n.as_bytes().into();
        Ok(match name.split_once('.') {
            Some(("cookie", name)) => Self::Cookie(bytes(name)),
            Some(("param", name)) => Self::Param(bytes(name)),
            _ => Self::Param(bytes(name)),
        })
    }

    /// Is it more than a parameter's name?
    pub fn is_known(name: &str) -> bool {
        let told = ["$", "cookie.", "param."].iter().any(|p| name.starts_with(p));
        name.is_empty() || told || NAMES.iter().any(|(names, _)| names.contains(&name))
    }

    /// The field whose name is all but this one: a letter too few, too many or another, two exchanged, or in capitals.
    pub fn near(name: &str) -> Option<&'static str> {
        let close = |known: &&&str| {
            // A short name is near to too many.
            known.len() > 3
                && (known.eq_ignore_ascii_case(name) || is_one_edit(known.as_bytes(), name.as_bytes()))
        };
        NAMES.iter().flat_map(|(names, _)| *names).find(close).copied()
    }

    /// What stands before a field's name in this one, with the `_` between them.
    pub fn prefix(name: &str) -> Option<&str> {
        let fields = NAMES.iter().flat_map(|(names, _)| *names);
        let before = fields.filter_map(|field| name.strip_suffix(field));
        before.filter(|prefix| prefix.ends_with('_')).min_by_key(|prefix| prefix.len())
    }

    /// What must be made ready before it can be asked for.
    fn need(&self) -> Need {
        Need {
            params: matches!(self, Self::Param(_) | Self::Params),
            cookies: matches!(self, Self::Cookie(_)),
            client: matches!(self, Self::ClientIp | Self::ClientIpInt),
            peer: matches!(self, Self::IpInt | Self::ClientIpInt),
            spider: matches!(self, Self::IsSpider | Self::Spider),
        }
    }
}

/// What the columns of all kinds ask for together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // independent parts of a line's work
pub struct Need {
    /// Parameters of the query.
    pub params: bool,
    /// Cookies.
    pub cookies: bool,
    /// The forwarded-for field.
    pub client: bool,
    /// Addresses as numbers.
    pub peer: bool,
    /// The list of spiders.
    pub spider: bool,
}

impl Need {
    /// Adds what this field needs.
    pub fn add(&mut self, field: &Field) {
        let more = field.need();
        self.params |= more.params;
        self.cookies |= more.cookies;
        self.client |= more.client;
        self.peer |= more.peer;
        self.spider |= more.spider;
    }
}

/// Bytes of the line, or of the buffer of decoded ones.
#[derive(Clone, Copy, Debug, Default)]
enum Place {
    #[default]
    Nowhere,
    Line(Span),
    Buffer(Span),
}

impl Place {
    fn of<'v>(self, line: &'v [u8], buffer: &'v [u8]) -> &'v [u8] {
        match self {
            Self::Nowhere => b"",
            Self::Line(span) => span.of(line),
            Self::Buffer(span) => span.of(buffer),
        }
    }
}

/// Where a field's value comes from.
enum Value<'v> {
    /// So many bytes at the beginning of these, which are the line's or decoded ones.
    At(&'v [u8], usize),
    /// The same, or what needs no escape.
    Line(&'v [u8]),
    /// What is not of the line.
    Ours(&'v [u8]),
    /// Digits and a few signs, which are written when they are asked for.
    Number,
    /// All parameters.
    Params,
}

#[derive(Clone, Copy, Debug)]
struct Pair {
    name: Span,
    /// With the brackets of a list.
    whole: Span,
    value: Span,
}

/// Whose file the lines are of.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The sender's name; empty if nobody knows.
    pub name: String,
    /// The file's hour; empty if nobody knows.
    pub hour: String,
}

/// One line at a time.
#[derive(Debug, Default)]
pub struct Record {
    spans: Vec<Span>,
    buffer: Vec<u8>,
    params: Vec<Pair>,
    cookies: Vec<Pair>,
    stamp: Stamp,
    request: [Place; 3],
    path: Place,
    query: Place,
    ip: Place,
    client: Place,
    ip_addr: Option<IpAddr>,
    client_addr: Option<IpAddr>,
    user: Place,
    referer: Place,
    agent: Place,
    host: Place,
    spider: Option<usize>,
    known_agents: Memo<Option<usize>>,
    /// Neither the line nor a decoded value has a byte that a row would escape.
    plain: bool,
    original: bool,
    slots: Slots,
}

impl Record {
    /// Takes a line apart; the reason if it cannot be.
    pub fn read<'f>(
        &mut self,
        line: &[u8],
        format: &'f Format,
        need: Need,
        spiders: &Spiders,
    ) -> Result<(), &'f str> {
        self.buffer.clear();
        self.params.clear();
        self.cookies.clear();
        self.spider = None;
        self.slots = format.slots;
        self.original = format.original;
        self.plain = is_plain(line);
        format.cut(line, self.plain, &mut self.spans)?;
        let s = format.slots;
        self.stamp = self.when(line, s).ok_or(NO_TIME)?;
        self.request = self.requested(line, s);
        let url = self.request[1];
        (self.path, self.query) = self.parted(line, s, url);
        self.ip = self.value(line, s.ip);
        self.host = self.value(line, s.host);
        self.user = self.unescaped(line, s.user);
        self.referer = self.unescaped(line, s.referer);
        self.agent = self.unescaped(line, s.agent);
        if need.params {
            self.read_params(line).ok_or(MANY_PARAMS)?;
        }
        if need.cookies {
            self.read_cookies(line, s).ok_or(MANY_COOKIES)?;
        }
        if need.client || need.peer || self.original {
            self.read_addresses(line, s);
        }
        if need.spider {
            let agent = self.agent.of(line, &self.buffer);
            self.spider = self.known_agents.of(agent, || spiders.find(agent));
        }
        self.plain &= self.buffer.is_empty() || is_plain(&self.buffer);
        Ok(())
    }

    /// The value of a field; what has to be written down for it goes to `scratch`.
    pub fn get<'v>(
        &'v self,
        field: &'v Field,
        line: &'v [u8],
        source: &'v Source,
        spiders: &'v Spiders,
        scratch: &'v mut Vec<u8>,
    ) -> &'v [u8] {
        match self.look(field, line, source, spiders) {
            Value::At(tail, len) => return tail.get(..len).unwrap_or_default(),
            Value::Line(bytes) | Value::Ours(bytes) => return bytes,
            Value::Number => {
                scratch.clear();
                self.put_number(field, scratch);
            }
            Value::Params => {
                scratch.clear();
                self.put_params(scratch, |bytes, out| out.extend_from_slice(bytes));
            }
        }
        scratch
    }

    /// Appends the value of a field as a row has it, escaped.
    pub fn put(&self, field: &Field, line: &[u8], source: &Source, spiders: &Spiders, out: &mut Vec<u8>) {
        match self.look(field, line, source, spiders) {
            Value::At(tail, len) if self.plain => put_short(tail, len, out),
            Value::At(tail, len) => escape(tail.get(..len).unwrap_or_default(), out),
            Value::Line(bytes) if self.plain => out.extend_from_slice(bytes),
            Value::Line(bytes) | Value::Ours(bytes) => escape(bytes, out),
            Value::Number => self.put_number(field, out),
            Value::Params if self.plain => self.put_params(out, |bytes, out| out.extend_from_slice(bytes)),
            // Its separators are no part of a value.
            Value::Params => self.put_params(out, escape),
        }
    }

    /// One branch for each column of each line: within its callers, so that theirs is the same one.
    #[inline(always)]
    #[allow(clippy::inline_always)]
    fn look<'v>(
        &'v self,
        field: &'v Field,
        line: &'v [u8],
        source: &'v Source,
        spiders: &'v Spiders,
    ) -> Value<'v> {
        let place = match field {
            Field::Ip => {
                if self.original {
                    self.client
                } else {
                    self.ip
                }
            }
            Field::ClientIp => self.client,
            Field::User => self.user,
            Field::Method => self.request[0],
            Field::Url => self.request[1],
            Field::Protocol => self.request[2],
            Field::Path => self.path,
            Field::Query => self.query,
            Field::Status => self.value(line, self.slots.status),
            Field::Bytes => self.value(line, self.slots.bytes),
            Field::Referer => self.referer,
            Field::Agent => self.agent,
            Field::Value(n) => self.value(line, Some(*n)),
            Field::Line => return Value::Line(line),
            Field::Param(name) => return Value::Line(self.param(name).unwrap_or_default()),
            Field::Cookie(name) => {
                let found = self.cookies.iter().find(|c| c.name.of(&self.buffer) == name.as_ref());
                return Value::Line(found.map(|c| c.value.of(&self.buffer)).unwrap_or_default());
            }
            Field::IsSpider => return Value::Line(if self.spider.is_some() { b"1" } else { b"0" }),
            Field::Empty => return Value::Line(b""),
            Field::Fixed(text) => return Value::Ours(text.as_bytes()),
            Field::Host => {
                let host = self.at(line, self.host);
                return Value::Ours(if host.is_empty() { source.name.as_bytes() } else { host });
            }
            Field::Source => return Value::Ours(source.name.as_bytes()),
            Field::SourceHour => return Value::Ours(source.hour.as_bytes()),
            Field::Spider => return Value::Ours(self.spider.map(|n| spiders.name(n)).unwrap_or_default()),
            Field::Params => return Value::Params,
            Field::IpInt
            | Field::ClientIpInt
            | Field::Time
            | Field::Timestamp
            | Field::Unix
            | Field::Date
            | Field::Day
            | Field::Hour => return Value::Number,
        };
        match place {
            Place::Nowhere => Value::Line(b""),
            Place::Line(span) => Value::At(line.get(span.start..).unwrap_or_default(), span.len()),
            Place::Buffer(span) => Value::At(self.buffer.get(span.start..).unwrap_or_default(), span.len()),
        }
    }

    /// What is made of digits and a few signs.
    fn put_number(&self, field: &Field, out: &mut Vec<u8>) {
        match field {
            Field::IpInt => put_int(if self.original { self.client_addr } else { self.ip_addr }, out),
            Field::ClientIpInt => put_int(self.client_addr, out),
            Field::Time => self.stamp.put_iso(out),
            Field::Timestamp => self.stamp.put_plain(out),
            Field::Unix => put_signed(self.stamp.unix(), out),
            Field::Date => self.stamp.put_date(out),
            Field::Day => self.stamp.put_day(out),
            _ => self.stamp.put_hour(out),
        }
    }

    /// The addresses that a list of addresses is asked about: the peer's and the one that a proxy told.
    pub fn addresses(&self) -> [Option<IpAddr>; 2] {
        [self.ip_addr, self.client_addr]
    }

    /// The query's parameters, decoded, in their order, with names as they stand there.
    pub fn params(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.params.iter().map(|p| (p.whole.of(&self.buffer), p.value.of(&self.buffer)))
    }

    /// When it was.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    fn at<'v>(&'v self, line: &'v [u8], place: Place) -> &'v [u8] {
        place.of(line, &self.buffer)
    }

    fn span(&self, slot: Option<u16>) -> Span {
        slot.and_then(|n| self.spans.get(usize::from(n))).copied().unwrap_or_default()
    }

    /// A value as it stands there; `-` is none.
    fn value(&self, line: &[u8], slot: Option<u16>) -> Place {
        let span = self.span(slot);
        if span.start == span.end || span.of(line) == b"-" { Place::Nowhere } else { Place::Line(span) }
    }

    /// A value without what the server escaped in it.
    fn unescaped(&mut self, line: &[u8], slot: Option<u16>) -> Place {
        let place = self.value(line, slot);
        let bytes = match place {
            Place::Line(span) => span.of(line),
            _ => return place,
        };
        if self.plain || memchr::memchr(b'\\', bytes).is_none() {
            return place;
        }
        let start = self.buffer.len();
        unescape(bytes, &mut self.buffer);
        Place::Buffer(Span { start, end: self.buffer.len() })
    }

    fn when(&self, line: &[u8], s: Slots) -> Option<Stamp> {
        if s.time_local.is_some() {
            return Stamp::local(self.span(s.time_local).of(line));
        }
        if s.time_iso.is_some() {
            return Stamp::iso(self.span(s.time_iso).of(line));
        }
        Stamp::unix_text(self.span(s.time_unix).of(line))
    }

    /// Method, URL and protocol.
    fn requested(&mut self, line: &[u8], s: Slots) -> [Place; 3] {
        let mut parts = [Place::Nowhere; 3];
        let whole = self.unescaped(line, s.request);
        let text = self.at(line, whole);
        if let Some(method) = memchr::memchr(b' ', text) {
            // Some clients send blanks in a URL; the protocol is the last word all the same.
            let from = method.saturating_add(1);
            let last = memchr::memrchr(b' ', text).filter(|at| *at > method);
            let last =
                last.filter(|at| text.get(at.saturating_add(1)..).unwrap_or_default().starts_with(b"HTTP/"));
            let to = last.unwrap_or(text.len());
            let part = |start, end| match whole {
                Place::Line(span) => Place::Line(inside(span, start, end)),
                Place::Buffer(span) => Place::Buffer(inside(span, start, end)),
                Place::Nowhere => Place::Nowhere,
            };
            let protocol = last.map_or(Place::Nowhere, |at| part(at.saturating_add(1), text.len()));
            parts = [part(0, method), part(from, to), protocol];
        } else if !text.is_empty() {
            // Not HTTP, or a scan: it is no method, but what was asked for.
            parts[1] = whole;
        }
        if s.method.is_some() {
            parts[0] = self.value(line, s.method);
        }
        if s.url.is_some() {
            parts[1] = self.unescaped(line, s.url);
        }
        if s.protocol.is_some() {
            parts[2] = self.value(line, s.protocol);
        }
        parts
    }

    fn parted(&mut self, line: &[u8], s: Slots, url: Place) -> (Place, Place) {
        let text = self.at(line, url);
        let (span, wrap): (Span, fn(Span) -> Place) = match url {
            Place::Line(span) => (span, Place::Line),
            Place::Buffer(span) => (span, Place::Buffer),
            Place::Nowhere => (Span::default(), |_| Place::Nowhere),
        };
        let mark = memchr::memchr(b'?', text).unwrap_or(text.len());
        let before = text.get(..mark).unwrap_or_default();
        // A proxy is asked for http://host/path.
        let scheme = (!before.starts_with(b"/"))
            .then(|| memchr::memmem::find(before.get(..16).unwrap_or(before), b"://"))
            .flatten();
        let begin = scheme.map_or(0, |at| {
            let host = at.saturating_add(3);
            let slash = memchr::memchr(b'/', before.get(host..).unwrap_or_default());
            slash.map_or(mark, |n| host.saturating_add(n))
        });
        let mut path = wrap(inside(span, begin, mark));
        let mut query = wrap(inside(span, mark.saturating_add(1).min(text.len()), text.len()));
        if s.path.is_some() {
            path = self.unescaped(line, s.path);
        }
        if s.query.is_some() {
            query = self.unescaped(line, s.query);
        }
        (path, query)
    }

    fn read_params(&mut self, line: &[u8]) -> Option<()> {
        let (from_line, query) = match self.query {
            Place::Nowhere => return Some(()),
            Place::Line(span) => (true, span),
            Place::Buffer(span) => (false, span),
        };
        let (mut at, end) = (query.start, query.end);
        while at < end {
            let rest = Span { start: at, end };
            let text = if from_line { rest.of(line) } else { rest.of(&self.buffer) };
            let len = memchr::memchr(b'&', text).unwrap_or(text.len());
            let one = text.get(..len).unwrap_or_default();
            let equals = memchr::memchr(b'=', one);
            let name = Span { start: at, end: at.saturating_add(equals.unwrap_or(len)) };
            let value = Span {
                start: name.end.saturating_add(usize::from(equals.is_some())),
                end: at.saturating_add(len),
            };
            at = value.end.saturating_add(1);
            if name.start == name.end {
                continue;
            }
            if self.params.len() >= PARAMS_MAX {
                return None;
            }
            let whole = self.decoded(line, from_line, name);
            // `a[]=1&a[]=2` is a list called a.
            let name = trimmed(whole, &self.buffer);
            let value = self.decoded(line, from_line, value);
            self.params.push(Pair { name, whole, value });
        }
        Some(())
    }

    fn decoded(&mut self, line: &[u8], from_line: bool, what: Span) -> Span {
        let start = self.buffer.len();
        if from_line {
            percent(what.of(line), &mut self.buffer);
        } else {
            // A part of the buffer, decoded to its end.
            let raw = what.of(&self.buffer).to_vec();
            percent(&raw, &mut self.buffer);
        }
        Span { start, end: self.buffer.len() }
    }

    /// A parameter by its name; of several the first, and the n-th as `NAMEn`.
    fn param(&self, name: &[u8]) -> Option<&[u8]> {
        let value = |p: &Pair| p.value.of(&self.buffer);
        let is = |p: &&Pair, name: &[u8]| p.name.of(&self.buffer) == name;
        if let Some(found) = self.params.iter().find(|p| is(p, name)) {
            return Some(value(found));
        }
        let digits = name.iter().rev().take_while(|b| b.is_ascii_digit()).count();
        let (base, number) = name.split_at_checked(name.len().saturating_sub(digits))?;
        if base.is_empty() || number.is_empty() || number.starts_with(b"0") {
            return None;
        }
        let number: usize = std::str::from_utf8(number).ok()?.parse().ok()?;
        let mut of_name = self.params.iter().filter(|p| is(p, base));
        // Without a second one the name has no numbers.
        (of_name.clone().nth(1).is_some()).then(|| of_name.nth(number.saturating_sub(1)).map(value))?
    }

    fn put_params(&self, out: &mut Vec<u8>, put: fn(&[u8], &mut Vec<u8>)) {
        // How many have each name, and how many of them were before.
        let mut seen: HashMap<&[u8], (usize, usize)> = HashMap::new();
        let many = self.params.len() > COMPARED;
        if many {
            for pair in &self.params {
                let (all, _) = seen.entry(pair.name.of(&self.buffer)).or_default();
                *all = all.saturating_add(1);
            }
        }
        for (n, pair) in self.params.iter().enumerate() {
            if n > 0 {
                out.push(MAP_ITEM);
            }
            let name = pair.name.of(&self.buffer);
            put(name, out);
            let number = if many {
                seen.get_mut(name).filter(|(all, _)| *all > 1).map(|(_, before)| {
                    *before = before.saturating_add(1);
                    *before
                })
            } else {
                let same = |p: &&Pair| p.name.of(&self.buffer) == name;
                (self.params.iter().filter(same).nth(1).is_some())
                    .then(|| self.params.iter().take(n.saturating_add(1)).filter(same).count())
            };
            if let Some(number) = number {
                let _ = write!(out, "{number}");
            }
            out.push(MAP_KEY);
            put(pair.value.of(&self.buffer), out);
        }
    }

    fn read_cookies(&mut self, line: &[u8], s: Slots) -> Option<()> {
        let place = self.unescaped(line, s.cookies);
        let start = self.buffer.len();
        match place {
            Place::Nowhere => return Some(()),
            Place::Line(span) => self.buffer.extend_from_slice(span.of(line)),
            Place::Buffer(span) => {
                let copy = span.of(&self.buffer).to_vec();
                self.buffer.extend_from_slice(&copy);
            }
        }
        let mut at = start;
        while at < self.buffer.len() {
            let rest = self.buffer.get(at..).unwrap_or_default();
            let blanks = rest.iter().take_while(|b| **b == b' ').count();
            let rest = rest.get(blanks..).unwrap_or_default();
            at = at.saturating_add(blanks);
            let len = memchr::memchr(b';', rest).unwrap_or(rest.len());
            let one = rest.get(..len).unwrap_or_default();
            if let Some(equals) = memchr::memchr(b'=', one).filter(|n| *n > 0) {
                let name = Span { start: at, end: at.saturating_add(equals) };
                let value = Span { start: name.end.saturating_add(1), end: at.saturating_add(len) };
                if self.cookies.len() >= PARAMS_MAX {
                    return None;
                }
                self.cookies.push(Pair { name, whole: name, value });
            }
            at = at.saturating_add(len).saturating_add(1);
        }
        Some(())
    }

    fn read_addresses(&mut self, line: &[u8], s: Slots) {
        self.ip_addr = address(self.at(line, self.ip));
        // `client, proxy, proxy`: the first that is an address.
        self.client = Place::Nowhere;
        self.client_addr = None;
        let told = self.span(s.forwarded);
        if told.start == told.end {
            (self.client, self.client_addr) = (self.ip, self.ip_addr);
            return;
        }
        let mut at = told.start;
        for word in told.of(line).split(|b| *b == b',') {
            let from = word.iter().take_while(|b| **b == b' ').count();
            let len = word.trim_ascii().len();
            if let Some(addr) = address(word.trim_ascii()) {
                let start = at.saturating_add(from);
                self.client = Place::Line(Span { start, end: start.saturating_add(len) });
                self.client_addr = Some(addr);
                break;
            }
            at = at.saturating_add(word.len()).saturating_add(1);
        }
        if self.client_addr.is_none() {
            (self.client, self.client_addr) = (self.ip, self.ip_addr);
        }
    }
}

/// Appends `len` bytes of `tail`. Most values are a few bytes long, and a copy of a fixed length needs no call.
fn put_short(tail: &[u8], len: usize, out: &mut Vec<u8>) {
    match tail.first_chunk::<16>() {
        Some(some) if len <= some.len() => {
            let end = out.len().saturating_add(len);
            out.extend_from_slice(some);
            out.truncate(end);
        }
        _ => out.extend_from_slice(tail.get(..len).unwrap_or_default()),
    }
}

fn is_one_edit(a: &[u8], b: &[u8]) -> bool {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (a.get(same..).unwrap_or_default(), b.get(same..).unwrap_or_default());
    let same = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    let rest = |text: &'_ [u8]| text.len().saturating_sub(same);
    match (a.get(..rest(a)).unwrap_or_default(), b.get(..rest(b)).unwrap_or_default()) {
        ([_], [] | [_]) | ([], [_]) => true,
        ([a, b], [c, d]) => a == d && b == c,
        _ => false,
    }
}

fn inside(span: Span, from: usize, to: usize) -> Span {
    let end = span.start.saturating_add(to);
    Span { start: span.start.saturating_add(from).min(end), end }
}

fn trimmed(mut span: Span, buffer: &[u8]) -> Span {
    while matches!(span.of(buffer).first(), Some(b'[' | b']')) {
        span.start = span.start.saturating_add(1);
    }
    while matches!(span.of(buffer).last(), Some(b'[' | b']')) {
        span.end = span.end.saturating_sub(1);
    }
    span
}

#[cfg(test)]
mod tests;
