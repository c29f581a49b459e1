//! BSON, as much of it as messages of documents need, written to the end of a buffer. The driver's own builder allocates for
//! every value and copies a document each time it goes into another one.
//!
//! ```text
//! document  length of all of it (4 bytes), elements, 00
//! element   kind, name, 00, value
//! string    length with its 00 (4 bytes), UTF-8, 00
//! array     a document whose names are 0, 1, 2 …
//! ```
//! Numbers are little-endian.

/// Kind of an element.
pub const STRING: u8 = 0x02;
/// Kind of an element.
pub const DOCUMENT: u8 = 0x03;
/// Kind of an element.
pub const ARRAY: u8 = 0x04;
/// Kind of an element.
pub const BOOLEAN: u8 = 0x08;
/// Kind of an element, of 4 bytes.
pub const INT32: u8 = 0x10;
/// Kind of an element, of 8 bytes.
pub const INT64: u8 = 0x12;

/// Begins a document or an array; [`end`] wants to know where.
pub fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    start
}

/// Ends what began there.
pub fn end(out: &mut Vec<u8>, start: usize) {
    out.push(0);
    put_len(out, start, 0);
}

/// Begins an element; its value follows. A NUL in the name would end it.
pub fn element(out: &mut Vec<u8>, kind: u8, name: &[u8]) {
    out.push(kind);
    out.extend_from_slice(name);
    out.push(0);
}

/// The value of a string; what is no UTF-8 becomes U+FFFD.
pub fn string(out: &mut Vec<u8>, text: &[u8]) {
    let start = begin(out);
    if text.is_ascii() {
        out.extend_from_slice(text);
    } else {
        out.extend_from_slice(String::from_utf8_lossy(text).as_bytes());
    }
    out.push(0);
    put_len(out, start, 4);
}

/// Writes the length of what began there, without the first so many bytes. Nothing that a server takes is longer than can be
/// said here.
fn put_len(out: &mut [u8], start: usize, without: usize) {
    let len = out.len().saturating_sub(start).saturating_sub(without);
    if let Some(place) = out.get_mut(start..).and_then(<[u8]>::first_chunk_mut) {
        *place = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{Document, doc};

    #[test]
    fn the_drivers_reader_reads_what_was_written() {
        let mut out = b"before".to_vec();
        let all = begin(&mut out);
        for (name, text) in [("a", "é\0".as_bytes()), ("", b""), ("b", b"x\xffy"), ("c", b"ascii")] {
            element(&mut out, STRING, name.as_bytes());
            string(&mut out, text);
        }
        element(&mut out, INT32, b"i");
        out.extend_from_slice(&(-7_i32).to_le_bytes());
        element(&mut out, INT64, b"l");
        out.extend_from_slice(&i64::MIN.to_le_bytes());
        element(&mut out, BOOLEAN, b"t");
        out.push(1);
        element(&mut out, ARRAY, b"list");
        let list = begin(&mut out);
        element(&mut out, DOCUMENT, b"0");
        let inner = begin(&mut out);
        end(&mut out, inner);
        end(&mut out, list);
        end(&mut out, all);
        let read = Document::from_reader(&out[6..]).unwrap();
        let wanted = doc! {
            "a": "é\0", "": "", "b": "x\u{fffd}y", "c": "ascii", "i": -7, "l": i64::MIN, "t": true, "list": [{}],
        };
        assert_eq!(read, wanted);
    }
}
