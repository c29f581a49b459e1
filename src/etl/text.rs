//! The bytes of a value: how servers and browsers write what is none of their characters, and how a row does.
//!
//! A row is UTF-8 whatever strangers sent, for a reader may refuse a whole table for one byte that is not: `DuckDB` does.
//! Nothing is lost by it. `\t`, `\n`, `\r` and `\\` stand for a tab, a newline, a carriage return and a backslash; `\xHH` for any
//! other control character, and for each byte that is no UTF-8.

/// ASCII that every row has as it is.
pub fn is_plain(text: &[u8]) -> bool {
    let (ascii, bare) = looked_at(text);
    ascii && bare
}

/// Is it ASCII? And is it without control characters and backslashes?
fn looked_at(text: &[u8]) -> (bool, bool) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let (words, rest) = text.as_chunks::<8>();
    let (mut all, mut odd) = (0, 0);
    for eight in words {
        let word = u64::from_le_bytes(*eight);
        let backslash = word ^ ONES.wrapping_mul(u64::from(b'\\'));
        all |= word;
        // In each word a byte that is less than a blank, or a backslash, is found for certain, and none where none is: a
        // borrow comes from such a byte only.
        odd |= !word & (word.wrapping_sub(ONES.wrapping_mul(u64::from(b' '))) | backslash.wrapping_sub(ONES));
    }
    (all & HIGH == 0 && rest.is_ascii(), odd & HIGH == 0 && rest.iter().all(|b| is_graphic(*b)))
}

fn is_graphic(b: u8) -> bool {
    b >= b' ' && b != b'\\'
}

/// Appends a value as a row has it.
pub fn escape(value: &[u8], out: &mut Vec<u8>) {
    if std::str::from_utf8(value).is_ok() {
        escape_text(value, out);
    } else {
        for chunk in value.utf8_chunks() {
            escape_text(chunk.valid().as_bytes(), out);
            chunk.invalid().iter().for_each(|b| put_byte(*b, out));
        }
    }
}

/// The same for what is known to be UTF-8.
fn escape_text(mut text: &[u8], out: &mut Vec<u8>) {
    if looked_at(text).1 {
        out.extend_from_slice(text);
        return;
    }
    while let Some(at) = text.iter().position(|b| !is_graphic(*b)) {
        let (good, odd) = text.split_at_checked(at).unwrap_or_default();
        out.extend_from_slice(good);
        let Some((b, more)) = odd.split_first() else { break };
        match b {
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b => put_byte(*b, out),
        }
        text = more;
    }
    out.extend_from_slice(text);
}

/// A value with `\xHH` for each byte that is no UTF-8, and else as it is: for names of folders, which write their own escapes.
pub fn valid(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in value.utf8_chunks() {
        out.extend_from_slice(chunk.valid().as_bytes());
        chunk.invalid().iter().for_each(|b| put_byte(*b, &mut out));
    }
    out
}

fn put_byte(b: u8, out: &mut Vec<u8>) {
    let digit = |n: u8| if n < 10 { b'0'.wrapping_add(n) } else { b'A'.wrapping_add(n.wrapping_sub(10)) };
    out.extend_from_slice(&[b'\\', b'x', digit(b >> 4), digit(b & 15)]);
}

fn hex(b: Option<&u8>) -> Option<u8> {
    match b? {
        b @ b'0'..=b'9' => Some(b.wrapping_sub(b'0')),
        b @ b'a'..=b'f' => Some(b.wrapping_sub(b'a').wrapping_add(10)),
        b @ b'A'..=b'F' => Some(b.wrapping_sub(b'A').wrapping_add(10)),
        _ => None,
    }
}

fn byte(high: Option<&u8>, low: Option<&u8>) -> Option<u8> {
    Some(hex(high)?.wrapping_shl(4) | hex(low)?)
}

/// What Apache and nginx write for a quote, a backslash and control characters. Any other backslash is one.
pub fn unescape(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = memchr::memchr(b'\\', text) {
        out.extend_from_slice(text.get(..at).unwrap_or_default());
        let rest = text.get(at..).unwrap_or_default();
        let (put, len) = match rest.get(1) {
            Some(c @ (b'"' | b'\\')) => (*c, 2),
            Some(b'n') => (b'\n', 2),
            Some(b'r') => (b'\r', 2),
            Some(b't') => (b'\t', 2),
            Some(b'b') => (8, 2),
            Some(b'v') => (11, 2),
            Some(b'f') => (12, 2),
            Some(b'x') => match byte(rest.get(2), rest.get(3)) {
                Some(b) => (b, 4),
                None => (b'\\', 1),
            },
            _ => (b'\\', 1),
        };
        out.push(put);
        text = rest.get(len..).unwrap_or_default();
    }
    out.extend_from_slice(text);
}

/// `%HH` and `+` as in a form; any other `%` is one.
pub fn percent(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = memchr::memchr2(b'%', b'+', text) {
        out.extend_from_slice(text.get(..at).unwrap_or_default());
        let rest = text.get(at..).unwrap_or_default();
        let (put, len) = match (rest.first(), byte(rest.get(1), rest.get(2))) {
            (Some(b'+'), _) => (b' ', 1),
            (_, Some(b)) => (b, 3),
            _ => (b'%', 1),
        };
        out.push(put);
        text = rest.get(len..).unwrap_or_default();
    }
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader makes of a row's value.
    fn read(row: &[u8]) -> Vec<u8> {
        let (mut out, mut rest) = (Vec::new(), row);
        while let Some((b, more)) = rest.split_first() {
            rest = more;
            if *b != b'\\' {
                out.push(*b);
                continue;
            }
            let (kind, more) = rest.split_first().unwrap();
            rest = more;
            out.push(match kind {
                b't' => b'\t',
                b'n' => b'\n',
                b'r' => b'\r',
                b'\\' => b'\\',
                b'x' => {
                    let digits = std::str::from_utf8(&rest[..2]).unwrap();
                    rest = &rest[2..];
                    u8::from_str_radix(digits, 16).unwrap()
                }
                other => panic!("\\{other}"),
            });
        }
        out
    }

    #[test]
    fn a_row_is_text_and_says_what_the_bytes_were() {
        for (value, row) in [
            (b"a b~\x7f".as_slice(), "a b~\x7f"),
            (b"a\tb\nc\\d\re", r"a\tb\nc\\d\re"),
            (b"\0\x01\x02\x03\x1f", r"\x00\x01\x02\x03\x1F"),
            ("gr\u{fc}n \u{4e2d}".as_bytes(), "gr\u{fc}n \u{4e2d}"),
            (b"\xe4\xe5 \xc3\xbc\\xE4", "\\xE4\\xE5 \u{fc}\\\\xE4"),
            (b"\xed\xa0\x80\xf0\x9f", r"\xED\xA0\x80\xF0\x9F"),
        ] {
            let mut out = Vec::new();
            escape(value, &mut out);
            assert_eq!(std::str::from_utf8(&out).unwrap(), row);
            assert_eq!(read(&out), value);
        }
        assert_eq!(valid(b"\t\\\xff"), b"\t\\\\xFF");
    }

    #[test]
    fn every_byte_at_every_place_of_a_word() {
        for b in 0..=255_u8 {
            for at in 0..20 {
                for around in [b'!', b'~', 0xff] {
                    let mut text = [around; 20];
                    text[at] = b;
                    let bare = b >= b' ' && b != b'\\';
                    assert_eq!(looked_at(&text).1, bare, "{b} at {at}");
                    assert_eq!(is_plain(&text), bare && b < 0x80 && around < 0x80, "{b} at {at}");
                }
            }
        }
        assert!(is_plain(b"") && is_plain(&[b' '; 9]) && is_plain(&[0x7f; 8]) && !is_plain(b" \t"));
    }
}
