//! Cuts a connection's bytes into headers and pieces of bodies.

use super::{Header, Refusal, ping, unvarint4, wrong};

/// What the decoder found next.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole header; the body follows.
    Header(Header),
    /// The same of a test pack ([`ping`]).
    Ping(Header),
    /// Some bytes of the body.
    Body(&'a [u8]),
    /// The body is complete.
    End,
}

/// Cuts a byte stream into frames, whatever way the bytes are split.
pub struct Decoder {
    max_header: usize,
    max_body: u64,
    buf: Vec<u8>,
    /// Header length, once the four length bytes are there.
    header_len: Option<usize>,
    body_left: Option<u64>,
}

/// Memory of a header that a connection keeps; few headers are longer.
pub const HEADER_USUAL: usize = 4096;

impl Decoder {
    /// Limits in bytes; what exceeds them is refused when it is declared.
    pub fn new(max_header: usize, max_body: u64) -> Self {
        Self { max_header, max_body, buf: Vec::new(), header_len: None, body_left: None }
    }

    /// True between two frames: an end of the stream here loses nothing.
    pub fn at_boundary(&self) -> bool {
        self.buf.is_empty() && self.body_left.is_none()
    }

    /// Memory for the header that is coming in, once `input` is taken; it grows by doubling, up to what its length says.
    pub fn memory_with(&self, input: &[u8]) -> usize {
        if self.body_left.is_some() {
            return 0;
        }
        let mut first = [0; 4];
        let known = self.buf.iter().chain(input).zip(&mut first).map(|(from, to)| *to = *from).count();
        let len = unvarint4(first).filter(|len| known == 4 && *len <= self.max_header);
        let whole = len.map_or(4, |len| len.saturating_add(4));
        let need = self.buf.len().saturating_add(input.len()).min(whole);
        let capacity = self.buf.capacity();
        if need <= capacity { capacity } else { capacity.saturating_mul(2).clamp(need, whole) }
    }

    /// Makes that memory.
    pub fn reserve(&mut self, memory: usize) {
        self.buf.reserve_exact(memory.saturating_sub(self.buf.len()));
    }

    /// Takes a prefix of `input`: how many bytes, and what they completed. `(_, None)` asks for more input.
    pub fn feed<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Event<'a>>), Refusal> {
        if let Some(left) = self.body_left {
            if left == 0 {
                self.body_left = None;
                return Ok((0, Some(Event::End)));
            }
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
            let (part, _) = input.split_at(n);
            self.body_left = Some(left.saturating_sub(n as u64));
            return Ok((n, (n > 0).then_some(Event::Body(part))));
        }
        let mut used = 0;
        let want = |d: &Self| d.header_len.map_or(4, |h| h.saturating_add(4));
        loop {
            let part = input.get(used..).unwrap_or_default();
            let n = part.len().min(want(self).saturating_sub(self.buf.len()));
            self.buf.extend_from_slice(part.get(..n).unwrap_or_default());
            used = used.saturating_add(n);
            if self.buf.len() < want(self) {
                return Ok((used, None));
            }
            match (self.header_len, self.buf.first_chunk::<4>()) {
                (None, Some(len)) => match unvarint4(*len) {
                    Some(n) if n > 0 && n <= self.max_header => self.header_len = Some(n),
                    Some(n) => {
                        return wrong(format!("a header of {n} bytes; the limit is {}", self.max_header));
                    }
                    None => return wrong("the first four bytes are not a length"),
                },
                _ => break,
            }
        }
        let json = self.buf.get(4..).unwrap_or_default();
        let test = json.strip_prefix(ping::WORD);
        let is_test = test.is_some();
        let header = Header::parse(test.unwrap_or(json))?;
        if header.pack_len > self.max_body {
            return wrong(format!("PackLen {}; the limit is {}", header.pack_len, self.max_body));
        }
        self.buf.clear();
        self.buf.shrink_to(HEADER_USUAL);
        self.header_len = None;
        self.body_left = Some(header.pack_len);
        Ok((used, Some(if is_test { Event::Ping(header) } else { Event::Header(header) })))
    }
}
