//! Numbers and addresses: many in each line, so that the ways of the standard library are too long.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};

/// `1.2.3.4`, which nearly all are.
fn dotted(text: &[u8]) -> Option<Ipv4Addr> {
    let (mut bits, mut part, mut digits, mut dots) = (0_u32, 0_u32, 0_u8, 0_u8);
    for b in text {
        match b {
            b'0'..=b'9' if digits == 0 || part > 0 => {
                part = part.wrapping_mul(10).wrapping_add(u32::from(b.wrapping_sub(b'0')));
                digits = digits.wrapping_add(1);
            }
            b'.' if digits > 0 => {
                (bits, part, digits, dots) = (bits.wrapping_shl(8) | part, 0, 0, dots.wrapping_add(1));
            }
            _ => return None,
        }
        if part > 255 || dots > 3 {
            return None;
        }
    }
    (dots == 3 && digits > 0).then(|| Ipv4Addr::from_bits(bits.wrapping_shl(8) | part))
}

/// An address, perhaps in brackets, perhaps with a port behind it.
pub fn address(text: &[u8]) -> Option<IpAddr> {
    if let Some(v4) = dotted(text) {
        return Some(IpAddr::V4(v4));
    }
    // No address with its zone and port is as long.
    let text = std::str::from_utf8(text).ok().filter(|t| t.len() <= 64)?;
    if let Ok(addr) = text.parse::<IpAddr>() {
        return Some(addr);
    }
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once(']')?.0.parse().ok();
    }
    let (addr, port) = text.split_once(':')?;
    port.bytes().all(|b| b.is_ascii_digit()).then(|| addr.parse().ok())?
}

/// Appends an address as an integer.
pub fn put_int(addr: Option<IpAddr>, out: &mut Vec<u8>) {
    match addr.map(|a| a.to_canonical()) {
        Some(IpAddr::V4(v4)) => put_signed(v4.to_bits().into(), out),
        Some(IpAddr::V6(v6)) => drop(write!(out, "{}", v6.to_bits())),
        None => {}
    }
}

/// Appends a number in digits.
pub fn put_signed(n: i64, out: &mut Vec<u8>) {
    if n < 0 {
        out.push(b'-');
    }
    put_unsigned(n.unsigned_abs(), out);
}

/// Appends a number in digits.
pub fn put_unsigned(n: u64, out: &mut Vec<u8>) {
    // As long as the largest one, by pairs.
    let mut text = [[0_u8; 2]; 10];
    let (mut at, mut rest) = (0_usize, n);
    for (i, place) in text.iter_mut().enumerate().rev() {
        let two = (rest % 100) as u8;
        *place = [b'0'.wrapping_add(two / 10), b'0'.wrapping_add(two % 10)];
        rest /= 100;
        if rest == 0 {
            at = i.saturating_mul(2).saturating_add(usize::from(two < 10));
            break;
        }
    }
    out.extend_from_slice(text.as_flattened().get(at..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_ways_say_what_the_long_ones_say() {
        for text in [
            "1.2.3.4",
            "0.0.0.0",
            "255.255.255.255",
            "256.1.1.1",
            "01.2.3.4",
            "1.2.3",
            "1.2.3.4.5",
            "1..2.3",
            ".1.2.3.4",
            "1.2.3.4.",
            "00.0.0.0",
            "1.2.3.x",
            "",
            "::1",
            "99999999999.1.1.1",
        ] {
            assert_eq!(dotted(text.as_bytes()), text.parse().ok(), "{text}");
        }
        for n in [0, 1, 9, 10, 4_294_967_295, i64::MAX, i64::MIN, -1, -5400] {
            let mut out = Vec::new();
            put_signed(n, &mut out);
            assert_eq!(out, n.to_string().as_bytes());
        }
    }
}
