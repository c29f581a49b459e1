//! Times as servers write them. Day and hour are those of the line, in the zone that it names: they must not move with the
//! zone of the machine that reads it.

#![allow(clippy::many_single_char_names)] // a letter for each letter of a pattern

/// A moment as it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// 0 to 9999.
    pub year: u16,
    /// From 1.
    pub month: u8,
    /// From 1.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 60.
    pub second: u8,
    /// East of Greenwich, in minutes.
    pub offset: i16,
}

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

impl Stamp {
    /// `17/May/2015:10:05:03 +0000`.
    pub fn local(text: &[u8]) -> Option<Self> {
        let [a, b, b'/', m, o, n, b'/', c, d, e, f, b':', g, h, b':', i, j, b':', k, l, b' ', zone @ ..] =
            text
        else {
            return None;
        };
        let month = (1..).zip(MONTHS).find(|(_, name)| name.as_slice() == [*m, *o, *n])?.0;
        let digits = [two(*c, *d)?, two(*e, *f)?, two(*a, *b)?, two(*g, *h)?, two(*i, *j)?, two(*k, *l)?];
        Self::checked(digits, month, offset(zone)?)
    }

    /// `2015-05-17T10:05:03+00:00`, also with a blank, `Z`, and parts of a second that are left out.
    pub fn iso(text: &[u8]) -> Option<Self> {
        let [c, d, e, f, b'-', m, n, b'-', a, b, b'T' | b' ', g, h, b':', i, j, b':', k, l, rest @ ..] = text
        else {
            return None;
        };
        let zone = match rest.split_first() {
            Some((b'.' | b',', more)) => {
                let digits = more.iter().take_while(|b| b.is_ascii_digit()).count();
                more.get(digits..)?
            }
            _ => rest,
        };
        let digits = [two(*c, *d)?, two(*e, *f)?, two(*a, *b)?, two(*g, *h)?, two(*i, *j)?, two(*k, *l)?];
        Self::checked(digits, two(*m, *n)?, offset(zone)?)
    }

    /// `1431857103.123`, seconds since 1970; the zone is UTC.
    pub fn unix_text(text: &[u8]) -> Option<Self> {
        let whole = text.split(|b| *b == b'.').next()?;
        let seconds: i64 = std::str::from_utf8(whole).ok()?.parse().ok()?;
        if !(0..253_402_300_800).contains(&seconds) {
            return None;
        }
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        let small = |n: i64| u8::try_from(n).unwrap_or(0);
        let (hour, minute) = (second.div_euclid(3600), second.rem_euclid(3600).div_euclid(60));
        Some(Self {
            year: u16::try_from(year).unwrap_or(0),
            month: small(month),
            day: small(day),
            hour: small(hour),
            minute: small(minute),
            second: small(second.rem_euclid(60)),
            offset: 0,
        })
    }

    fn checked([century, year, day, hour, minute, second]: [u8; 6], month: u8, offset: i16) -> Option<Self> {
        let year = u16::from(century).saturating_mul(100).saturating_add(year.into());
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        // A leap second is one of these.
        let real = (1..=days).contains(&day) && hour < 24 && minute < 60 && second <= 60;
        real.then_some(Self { year, month, day, hour, minute, second, offset })
    }

    /// Seconds since 1970, in UTC.
    pub fn unix(self) -> i64 {
        let minutes = i64::from(self.hour).saturating_mul(60).saturating_add(self.minute.into());
        let minutes = minutes.saturating_sub(self.offset.into());
        let days = days(self.year.into(), self.month.into(), self.day.into());
        days.saturating_mul(86_400)
            .saturating_add(minutes.saturating_mul(60))
            .saturating_add(self.second.into())
    }

    /// `2015-05-17T10:05:03+00:00`.
    pub fn put_iso(self, out: &mut Vec<u8>) {
        let ([y, e, a, r], [m, o], [d, p]) = self.date();
        let ([g, h], [i, j], [k, l]) = self.clock();
        let minutes = self.offset.unsigned_abs();
        let sign = if self.offset < 0 { b'-' } else { b'+' };
        let ([s, t], [u, v]) = (pair((minutes / 60) as u8), pair((minutes % 60) as u8));
        out.extend_from_slice(&[
            y, e, a, r, b'-', m, o, b'-', d, p, b'T', g, h, b':', i, j, b':', k, l, sign, s, t, b':', u, v,
        ]);
    }

    /// `2015-05-17 10:05:03`, without the zone, as the original wrote it and as Hive and its kin read a timestamp.
    pub fn put_plain(self, out: &mut Vec<u8>) {
        let ([y, e, a, r], [m, o], [d, p]) = self.date();
        let ([g, h], [i, j], [k, l]) = self.clock();
        out.extend_from_slice(&[y, e, a, r, b'-', m, o, b'-', d, p, b' ', g, h, b':', i, j, b':', k, l]);
    }

    /// `2015-05-17`.
    pub fn put_date(self, out: &mut Vec<u8>) {
        let ([y, e, a, r], [m, o], [d, p]) = self.date();
        out.extend_from_slice(&[y, e, a, r, b'-', m, o, b'-', d, p]);
    }

    /// `20150517`.
    pub fn put_day(self, out: &mut Vec<u8>) {
        let ([y, e, a, r], [m, o], [d, p]) = self.date();
        out.extend_from_slice(&[y, e, a, r, m, o, d, p]);
    }

    /// `10`.
    pub fn put_hour(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&pair(self.hour));
    }

    fn date(self) -> ([u8; 4], [u8; 2], [u8; 2]) {
        let ([c, d], [e, f]) = (pair((self.year / 100) as u8), pair((self.year % 100) as u8));
        ([c, d, e, f], pair(self.month), pair(self.day))
    }

    fn clock(self) -> ([u8; 2], [u8; 2], [u8; 2]) {
        (pair(self.hour), pair(self.minute), pair(self.second))
    }
}

fn two(tens: u8, ones: u8) -> Option<u8> {
    let digit = |b: u8| b.is_ascii_digit().then(|| b.wrapping_sub(b'0'));
    Some(digit(tens)?.saturating_mul(10).saturating_add(digit(ones)?))
}

/// Two digits of a number below 100.
fn pair(n: u8) -> [u8; 2] {
    [b'0'.wrapping_add((n / 10) % 10), b'0'.wrapping_add(n % 10)]
}

/// `+0100`, `-03:30`, `Z`, or nothing, which is UTC.
fn offset(zone: &[u8]) -> Option<i16> {
    let (sign, hours, minutes) = match zone {
        [] | b"Z" => return Some(0),
        [sign @ (b'+' | b'-'), a, b, c, d] | [sign @ (b'+' | b'-'), a, b, b':', c, d] => {
            (*sign, two(*a, *b)?, two(*c, *d)?)
        }
        _ => return None,
    };
    let minutes = i16::from(hours).saturating_mul(60).saturating_add(minutes.into());
    Some(if sign == b'-' { minutes.saturating_neg() } else { minutes })
}

/// Days since 1970 of a date in the Gregorian calendar, and back: the algorithms of Howard Hinnant's "chrono-compatible
/// low-level date algorithms", with years that begin in March, so that the leap day is the last one.
fn days(year: u32, month: u32, day: u32) -> i64 {
    // One era of 400 years later, so that the January of year 0 is in a year as well.
    let year = year.saturating_add(400).saturating_sub(u32::from(month <= 2));
    let (era, of_era) = (year / 400, year % 400);
    let from_march = month.saturating_add(9) % 12;
    let of_year =
        (from_march.saturating_mul(153).saturating_add(2) / 5).saturating_add(day).saturating_sub(1);
    let leaps = (of_era / 4).saturating_sub(of_era / 100);
    let of_era = of_era.saturating_mul(365).saturating_add(leaps).saturating_add(of_year);
    let all = era.saturating_mul(146_097).saturating_add(of_era);
    i64::from(all).saturating_sub(719_468 + 146_097)
}

fn civil(days: i64) -> (i64, i64, i64) {
    let days = days.saturating_add(719_468);
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let shortened = of_era
        .saturating_sub(of_era.div_euclid(1460))
        .saturating_add(of_era.div_euclid(36_524))
        .saturating_sub(of_era.div_euclid(146_096));
    let year = shortened.div_euclid(365);
    let before =
        year.saturating_mul(365).saturating_add(year.div_euclid(4)).saturating_sub(year.div_euclid(100));
    let of_year = of_era.saturating_sub(before);
    let from_march = of_year.saturating_mul(5).saturating_add(2).div_euclid(153);
    let begun = from_march.saturating_mul(153).saturating_add(2).div_euclid(5);
    let day = of_year.saturating_sub(begun).saturating_add(1);
    let month = if from_march < 10 { from_march.saturating_add(3) } else { from_march.saturating_sub(9) };
    let year = era.saturating_mul(400).saturating_add(year).saturating_add(i64::from(month <= 2));
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(stamp: Option<Stamp>) -> String {
        let Some(stamp) = stamp else { return "none".into() };
        let mut out = Vec::new();
        stamp.put_iso(&mut out);
        format!("{} {}", String::from_utf8(out).unwrap(), stamp.unix())
    }

    #[test]
    fn times_are_read_as_servers_write_them() {
        for (text, want) in [
            ("17/May/2015:10:05:03 +0000", "2015-05-17T10:05:03+00:00 1431857103"),
            ("01/Jan/1970:00:00:00 +0130", "1970-01-01T00:00:00+01:30 -5400"),
            ("29/Feb/2024:23:59:60 -0330", "2024-02-29T23:59:60-03:30 1709263800"),
            ("29/Feb/2023:23:59:59 +0000", "none"),
            ("17/Mai/2015:10:05:03 +0000", "none"),
            ("17/May/2015:24:05:03 +0000", "none"),
            ("17/May/2015:10:05:03", "none"),
            ("-", "none"),
            ("", "none"),
        ] {
            assert_eq!(shown(Stamp::local(text.as_bytes())), want, "{text}");
        }
        for (text, want) in [
            ("2015-05-17T10:05:03+08:00", "2015-05-17T10:05:03+08:00 1431828303"),
            ("2015-05-17 10:05:03.123456Z", "2015-05-17T10:05:03+00:00 1431857103"),
            ("2015-05-17T10:05:03", "2015-05-17T10:05:03+00:00 1431857103"),
            ("2015-13-17T10:05:03Z", "none"),
            ("2015-05-17T10:05:03 later", "none"),
        ] {
            assert_eq!(shown(Stamp::iso(text.as_bytes())), want, "{text}");
        }
        assert_eq!(shown(Stamp::unix_text(b"1431857103.999")), "2015-05-17T10:05:03+00:00 1431857103");
        assert_eq!(shown(Stamp::unix_text(b"999999999999")), "none");
    }

    #[test]
    fn every_day_there_and_back() {
        for day in (0..2_932_896).step_by(13) {
            let (y, m, d) = civil(day);
            let small = |n: i64| u32::try_from(n).unwrap();
            assert_eq!(days(small(y), small(m), small(d)), day);
            let other =
                jiff::civil::Date::new(1970, 1, 1).unwrap().saturating_add(jiff::Span::new().days(day));
            assert_eq!((y, m, d), (other.year().into(), other.month().into(), other.day().into()));
        }
    }
}
