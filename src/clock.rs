//! Time: the wall clock, a monotonic one, and civil hours in a time zone.
//!
//! Everything that needs the time gets a [`Clock`], so that a test can move it; nothing else reads the system's.
//! The wall clock dates things and may jump; durations are taken from the monotonic one only.
//!
//! A log file is named by a civil hour or day ([`Hour`]), and a day that changes the clock has hours that do not
//! exist (spring) or happen twice (autumn; one name, hence one file). Nothing here adds 3600 seconds to anything:
//! a [`Zone`] cuts the time line into the stretches of constant offset and asks in which of them a civil hour
//! lies. That is also right where the clock moves by half an hour (Lord Howe), or over midnight.
//!
//! **Borders.** For an hour `h` that exists and `n = next(h)`: `ends(h) == starts(n)`, except where the clock is put
//! back from *within* an hour over its beginning (St. John's until 2011: from 00:01 to 23:01). There `n` begins
//! for its first minute while `h` is to come again, and `ends(h) > starts(n)`. Never `ends(h) < starts(n)`: time has no
//! holes. An hour is over when it is over for the last time.

use crate::planted::{self, Bug};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// The first and the last year that an [`Hour`] can name.
const YEARS: std::ops::RangeInclusive<i16> = 1970..=9999;

/// No zone's offset is larger (POSIX allows a day and an hour, jiff a little more).
const MAX_OFFSET_SECS: i64 = 26 * 3600;

/// Where time zones are looked for after `$TZDIR` (by jiff, feature `tzdb-zoneinfo`).
const ZONE_DIRS: &str = "/usr/share/zoneinfo, /usr/share/lib/zoneinfo, /etc/zoneinfo";

/// The instant that is `wait` from now. (The longest wait that a config can ask for is far from the limit.)
pub fn deadline(wait: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait).or_else(|| now.checked_add(Duration::from_hours(24))).unwrap_or(now)
}

// ---- clocks ------------------------------------------------------------------------------------------------

/// The time, real or simulated. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Kind);

#[derive(Clone)]
enum Kind {
    Real { start: Instant },
    Sim(SimClock),
}

impl Clock {
    /// The system's clock.
    pub fn real() -> Clock {
        Clock(Kind::Real { start: Instant::now() })
    }

    /// A clock that stands still at this Unix time until its handle moves it.
    pub fn sim(unix_ms: i64) -> (Clock, SimClock) {
        let sim =
            SimClock(Arc::new(SimTimes { wall_ms: AtomicI64::new(unix_ms), mono_ms: AtomicU64::new(0) }));
        (Clock(Kind::Sim(sim.clone())), sim)
    }

    /// Wall time, Unix milliseconds. It may jump either way.
    pub fn now_ms(&self) -> i64 {
        match &self.0 {
            Kind::Real { .. } => match SystemTime::now().duration_since(UNIX_EPOCH) {
                Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
                Err(before) => {
                    i64::try_from(before.duration().as_millis()).map_or(i64::MIN, i64::wrapping_neg)
                }
            },
            Kind::Sim(sim) => sim.0.wall_ms.load(Ordering::SeqCst),
        }
    }

    /// Wall time, Unix seconds.
    pub fn now_secs(&self) -> i64 {
        self.now_ms().div_euclid(1000)
    }

    /// Milliseconds since some moment in the past; never goes back. For durations and deadlines.
    pub fn mono_ms(&self) -> u64 {
        match &self.0 {
            Kind::Real { start } => u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
            Kind::Sim(sim) => sim.0.mono_ms.load(Ordering::SeqCst),
        }
    }
}

/// The test's handle on a simulated clock.
#[derive(Clone)]
pub struct SimClock(Arc<SimTimes>);

struct SimTimes {
    wall_ms: AtomicI64,
    mono_ms: AtomicU64,
}

impl SimClock {
    /// Time passes.
    pub fn advance(&self, ms: u64) {
        self.step_wall(i64::try_from(ms).unwrap_or(i64::MAX));
        self.0.mono_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Somebody sets the wall clock.
    pub fn step_wall(&self, delta_ms: i64) {
        self.0.wall_ms.fetch_add(delta_ms, Ordering::SeqCst);
    }
}

// ---- civil hours -------------------------------------------------------------------------------------------

/// A civil hour (`YYYYMMDDHH`) or a civil day (`YYYYMMDD`), as log files are named. It has no zone and need not
/// exist in one. A day sorts before its hours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[expect(clippy::struct_field_names, reason = "an hour of the clock is what the word means")]
pub struct Hour {
    year: i16,
    month: i8,
    day: i8,
    hour: Option<i8>,
}

impl Hour {
    /// The hour, or with `None` the day; `None` if the calendar (1970 to 9999) has no such thing.
    pub fn new(year: i16, month: i8, day: i8, hour: Option<i8>) -> Option<Hour> {
        let real = YEARS.contains(&year)
            && Date::new(year, month, day).is_ok()
            && hour.is_none_or(|h| (0..24).contains(&h));
        real.then_some(Hour { year, month, day, hour })
    }

    /// Reads exactly eight or ten ASCII digits.
    pub fn parse(text: &str) -> Option<Hour> {
        let digits = text.as_bytes();
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let hour = match digits.len() {
            8 => None,
            10 => Some(text.get(8..10)?.parse().ok()?),
            _ => return None,
        };
        let (year, month, day) = (text.get(..4)?, text.get(4..6)?, text.get(6..8)?);
        Hour::new(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?, hour)
    }

    /// The year, 1970 to 9999.
    pub fn year(&self) -> i16 {
        self.year
    }

    /// The month, 1 to 12.
    pub fn month(&self) -> i8 {
        self.month
    }

    /// The day of the month, from 1.
    pub fn day(&self) -> i8 {
        self.day
    }

    /// The hour, 0 to 23; `None` for a day.
    pub fn hour(&self) -> Option<i8> {
        self.hour
    }

    /// It names a day.
    pub fn is_daily(&self) -> bool {
        self.hour.is_none()
    }

    /// Is it this one or a later one? Of an hour and a day the days are compared.
    pub fn is_from(self, since: Hour) -> bool {
        if since.is_daily() == self.is_daily() { self >= since } else { self.day_of() >= since.day_of() }
    }

    /// The day it lies in; a day itself.
    #[must_use]
    pub fn day_of(&self) -> Hour {
        Hour { hour: None, ..*self }
    }

    fn date(self) -> Option<Date> {
        Date::new(self.year, self.month, self.day).ok()
    }

    /// The following name in the calendar, whether a zone has it or not.
    fn following(self) -> Option<Hour> {
        match self.hour {
            Some(hour) if hour < 23 => Some(Hour { hour: Some(hour.saturating_add(1)), ..self }),
            _ => {
                let date = self.date()?.tomorrow().ok()?;
                Hour::new(date.year(), date.month(), date.day(), self.hour.map(|_| 0))
            }
        }
    }
}

impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}{:02}{:02}", self.year, self.month, self.day)?;
        self.hour.map_or(Ok(()), |hour| write!(f, "{hour:02}"))
    }
}

impl TryFrom<String> for Hour {
    type Error = String;

    fn try_from(text: String) -> Result<Hour, String> {
        Hour::parse(&text).ok_or_else(|| format!("not an hour YYYYMMDDHH or a day YYYYMMDD: {text:?}"))
    }
}

impl From<Hour> for String {
    fn from(hour: Hour) -> String {
        hour.to_string()
    }
}

// ---- time zones --------------------------------------------------------------------------------------------

/// A time zone. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Zone {
    tz: TimeZone,
    name: Arc<str>,
}

/// A stretch of Unix seconds that lies within one civil hour or day and one offset.
struct Span {
    from: i64,
    to: i64,
}

impl Zone {
    fn of(tz: TimeZone, name: &str) -> Zone {
        Zone { tz, name: name.into() }
    }

    /// The machine's zone: `$TZ`, else `/etc/localtime`, else UTC. An unusable one is an error, not UTC: hours would
    /// silently get other names.
    pub fn local() -> Result<Zone, String> {
        let localtime = std::path::Path::new("/etc/localtime");
        if std::env::var_os("TZ").is_none() {
            // A minimal container has no file there, or a link to zone data that is not installed. The latter
            // matters only if the zone is not UTC.
            let target = std::fs::read_link(localtime).unwrap_or_default();
            let utc = ["UTC", "UCT", "Universal", "Zulu"].iter().any(|name| target.ends_with(name));
            if utc || localtime.symlink_metadata().is_err() {
                return Ok(Zone::of(TimeZone::UTC, "UTC"));
            }
        }
        let tz = TimeZone::try_system().map_err(|e| {
            format!(
                "the local time zone cannot be determined from TZ or /etc/localtime (time zones are looked for in \
                 $TZDIR, {ZONE_DIRS}): {e}"
            )
        })?;
        let name = match (tz.iana_name(), tz.to_fixed_offset()) {
            (Some(name), _) => name.to_owned(),
            (None, Ok(offset)) => offset.to_string(),
            (None, Err(_)) => "local".to_owned(),
        };
        Ok(Zone::of(tz, &name))
    }

    /// The zone of an IANA name (`Europe/Berlin`), `UTC`, or a POSIX rule (`CET-1CEST,M3.5.0,M10.5.0/3`).
    pub fn named(name: &str) -> Result<Zone, String> {
        if name == "UTC" {
            return Ok(Zone::of(TimeZone::UTC, name));
        }
        // The name first: `EST5EDT` is both, and the zone data know its history.
        match TimeZone::get(name).or_else(|_| TimeZone::posix(name)) {
            Ok(tz) => Ok(Zone::of(tz, name)),
            Err(_) => Err(format!(
                "unknown time zone {name:?}: neither a POSIX rule nor a name found in $TZDIR, {ZONE_DIRS}"
            )),
        }
    }

    /// Its name: as given, or for the local zone the IANA name, the fixed offset, or `local`.
    pub fn name(&self) -> String {
        self.name.to_string()
    }

    /// The civil hour at this Unix time. Times outside the years 1970 to 9999 count as the nearest hour within.
    pub fn hour_at(&self, unix_ms: i64) -> Hour {
        let civil = self.tz.to_datetime(timestamp(unix_ms.div_euclid(1000)));
        let hour = Hour::new(civil.year(), civil.month(), civil.day(), Some(civil.hour()));
        // Only a zone west of Greenwich has 1969, and only in its first hours.
        hour.unwrap_or(Hour { year: *YEARS.start(), month: 1, day: 1, hour: Some(0) })
    }

    /// The civil day at this Unix time.
    pub fn day_at(&self, unix_ms: i64) -> Hour {
        self.hour_at(unix_ms).day_of()
    }

    /// When the hour or day begins, Unix milliseconds; `None` when the zone leaves it out. A repeated one begins
    /// at its first occurrence.
    pub fn starts_ms(&self, hour: Hour) -> Option<i64> {
        self.spans(hour).iter().map(|span| span.from).min().map(|secs| secs.saturating_mul(1000))
    }

    /// When the hour or day is over, Unix milliseconds; `None` when the zone leaves it out. A repeated one is over
    /// after its last occurrence. See the module's text for how this relates to the next one's start.
    pub fn ends_ms(&self, hour: Hour) -> Option<i64> {
        self.spans(hour).iter().map(|span| span.to).max().map(|secs| secs.saturating_mul(1000))
    }

    /// How many hour names that day has: 24, or less when the clock is put forward over a whole hour. A repeated
    /// hour is one name.
    pub fn hours_in_day(&self, day: Hour) -> u32 {
        let exists = |h: &i8| !self.spans(Hour { hour: Some(*h), ..day }).is_empty();
        (0..24).filter(exists).map(|_| 1).sum()
    }

    /// The next hour (of a day: the next day) that exists in the zone. The calendar's last one is its own next.
    pub fn next(&self, hour: Hour) -> Hour {
        if planted::is(Bug::HourIs3600Seconds)
            && let Some(start) = self.starts_ms(hour)
        {
            return self.hour_at(start.saturating_add(3_600_000));
        }
        let mut next = hour;
        // The longest known gap is a whole day (Samoa, 30 December 2011).
        for _ in 0..50 {
            let Some(following) = next.following() else { return hour };
            next = following;
            if !self.spans(next).is_empty() {
                return next;
            }
        }
        hour
    }

    /// The hours back from this time that exist in the zone, the oldest first; `span` of them by the clock.
    pub fn latest_hours(&self, now_ms: i64, span: u64) -> Vec<Hour> {
        let back = i64::try_from(span.saturating_sub(1)).unwrap_or(i64::MAX).saturating_mul(3_600_000);
        let (mut hour, last) = (self.hour_at(now_ms.saturating_sub(back)), self.hour_at(now_ms));
        let mut all = Vec::new();
        while hour <= last {
            all.extend(self.ends_ms(hour).map(|_| hour));
            let next = self.next(hour);
            if next <= hour {
                break;
            }
            hour = next;
        }
        all
    }

    /// The local time for people, as `2026-11-22 07:54:28.821`.
    pub fn format_ms(&self, unix_ms: i64) -> String {
        let civil = self.tz.to_datetime(timestamp(unix_ms.div_euclid(1000)));
        format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}",
            civil.year(),
            civil.month(),
            civil.day(),
            civil.hour(),
            civil.minute(),
            civil.second(),
            unix_ms.rem_euclid(1000)
        )
    }

    /// The stretches of time that make up a civil hour or day: none in a gap, one normally, more when it is
    /// repeated or the offset changes within it.
    fn spans(&self, hour: Hour) -> Vec<Span> {
        let Some(date) = hour.date() else { return Vec::new() };
        let midnight = date.duration_since(Date::constant(1970, 1, 1)).as_secs();
        let civil_from = midnight.saturating_add(i64::from(hour.hour.unwrap_or(0)).saturating_mul(3600));
        let civil_to = civil_from.saturating_add(if hour.is_daily() { 86400 } else { 3600 });
        let mut spans = Vec::new();
        let mut from = civil_from.saturating_sub(MAX_OFFSET_SECS);
        let last = civil_to.saturating_add(MAX_OFFSET_SECS);
        let mut offset = self.tz.to_offset(timestamp(from));
        let mut changes = self.tz.following(timestamp(from));
        while from < last {
            let change = changes.next();
            let to = change.as_ref().map_or(last, |c| c.timestamp().as_second().min(last));
            let shift = i64::from(offset.seconds());
            let utc = |civil: i64| civil.saturating_sub(shift);
            let span = Span { from: from.max(utc(civil_from)), to: to.min(utc(civil_to)) };
            if span.from < span.to {
                spans.push(span);
            }
            from = to;
            match change {
                Some(change) => offset = change.offset(),
                None => break,
            }
        }
        spans
    }
}

/// A time stamp, the nearest possible one for times beyond the calendar.
fn timestamp(unix_secs: i64) -> Timestamp {
    let secs = unix_secs.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    Timestamp::from_second(secs).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
    const NEW_YORK: &str = "EST5EDT,M3.2.0,M11.1.0";
    const LORD_HOWE: &str = "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0";
    const KOLKATA: &str = "IST-5:30";
    const ST_JOHNS: &str = "NST3:30NDT,M3.2.0,M11.1.0";
    const KATHMANDU: &str = "<+0545>-5:45";
    /// St. John's as it was from 1988 to 2011: clocks changed at one minute past midnight.
    const ST_JOHNS_2010: &str = "NST3:30NDT,M3.2.0/0:01,M11.1.0/0:01";
    /// Changes at midnight: day 0 of spring has no hour 0.
    const HAVANA: &str = "CST5CDT,M3.2.0/0,M11.1.0/1";
    const MIN_MS: i64 = 60_000;

    // POSIX rules, so that the tests need no zone data on the machine.
    fn zone(rule: &str) -> Zone {
        Zone::of(TimeZone::posix(rule).unwrap(), rule)
    }

    fn hour(text: &str) -> Hour {
        Hour::parse(text).unwrap()
    }

    fn ms(utc: &str) -> i64 {
        utc.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn hours_are_exactly_digits_and_real_dates() {
        for good in ["2026112205", "20261122", "2024022923", "19700101", "9999123123"] {
            assert_eq!(hour(good).to_string(), good);
            let json = serde_json::to_string(&hour(good)).unwrap();
            assert_eq!(json, format!("\"{good}\""));
            assert_eq!(serde_json::from_str::<Hour>(&json).unwrap(), hour(good));
        }
        for bad in [
            "",
            "2026",
            "202611220",
            "2026112224",
            "2026022900",
            "20261300",
            "20260010",
            "2026110005",
            "1969123123",
            "0000010100",
            "20261122 5",
            "+026112205",
            "2026112205\n",
            "20261122050",
            "２０２６１１２２",
            "2026é112",
        ] {
            assert_eq!(Hour::parse(bad), None, "{bad:?}");
        }
        assert!(serde_json::from_str::<Hour>("\"2026022900\"").is_err());
        assert!(hour("20261122") < hour("2026112200") && hour("2026112223") < hour("20261123"));
        assert_eq!(hour("2026112205").day_of(), hour("20261122"));
        assert!(hour("20261122").is_daily() && !hour("2026112205").is_daily());
        assert_eq!(Hour::new(2026, 2, 29, None), None);
        assert_eq!(Hour::new(2026, 2, 28, Some(24)), None);
    }

    #[test]
    fn berlin_changes_by_an_hour() {
        let z = zone(BERLIN);
        // Spring: 02 does not exist.
        assert_eq!(z.starts_ms(hour("2026032902")), None);
        assert_eq!(z.ends_ms(hour("2026032902")), None);
        assert_eq!(z.next(hour("2026032901")), hour("2026032903"));
        assert_eq!(z.ends_ms(hour("2026032901")), Some(ms("2026-03-29T01:00:00Z")));
        assert_eq!(z.starts_ms(hour("2026032903")), Some(ms("2026-03-29T01:00:00Z")));
        assert_eq!(z.hours_in_day(hour("20260329")), 23);
        assert_eq!(z.starts_ms(hour("20260329")), Some(ms("2026-03-28T23:00:00Z")));
        assert_eq!(z.ends_ms(hour("20260329")), Some(ms("2026-03-29T22:00:00Z")));
        // Autumn: 02 is two hours long.
        assert_eq!(z.starts_ms(hour("2026102502")), Some(ms("2026-10-25T00:00:00Z")));
        assert_eq!(z.ends_ms(hour("2026102502")), Some(ms("2026-10-25T02:00:00Z")));
        assert_eq!(z.hour_at(ms("2026-10-25T00:30:00Z")), hour("2026102502"));
        assert_eq!(z.hour_at(ms("2026-10-25T01:30:00Z")), hour("2026102502"));
        assert_eq!(z.hour_at(ms("2026-10-25T02:00:00Z")), hour("2026102503"));
        assert_eq!(z.hours_in_day(hour("20261025")), 24);
        assert_eq!(z.next(hour("20261025")), hour("20261026"));
        assert_eq!(z.ends_ms(hour("20261025")), Some(ms("2026-10-25T23:00:00Z")));
    }

    #[test]
    fn new_york_changes_by_an_hour() {
        let z = zone(NEW_YORK);
        assert_eq!(z.next(hour("2026030801")), hour("2026030803"));
        assert_eq!(z.starts_ms(hour("2026030803")), Some(ms("2026-03-08T07:00:00Z")));
        assert_eq!(z.hours_in_day(hour("20260308")), 23);
        assert_eq!(z.starts_ms(hour("2026110101")), Some(ms("2026-11-01T05:00:00Z")));
        assert_eq!(z.ends_ms(hour("2026110101")), Some(ms("2026-11-01T07:00:00Z")));
        assert_eq!(z.hours_in_day(hour("20261101")), 24);
        assert_eq!(z.day_at(ms("2026-11-02T04:59:59Z")), hour("20261101"));
        assert_eq!(z.hour_at(0), hour("1970010100"), "1969 in New York counts as the calendar's first hour");
    }

    #[test]
    fn lord_howe_changes_by_half_an_hour() {
        let z = zone(LORD_HOWE);
        // Spring: from 02:00 to 02:30; hour 02 exists and is half an hour long.
        assert_eq!(z.starts_ms(hour("2026100402")), Some(ms("2026-10-03T15:30:00Z")));
        assert_eq!(z.ends_ms(hour("2026100402")), Some(ms("2026-10-03T16:00:00Z")));
        assert_eq!(z.hours_in_day(hour("20261004")), 24);
        assert_eq!(z.next(hour("2026100401")), hour("2026100402"));
        // Autumn: from 02:00 back to 01:30; hour 01 is an hour and a half long.
        assert_eq!(z.starts_ms(hour("2026040501")), Some(ms("2026-04-04T14:00:00Z")));
        assert_eq!(z.ends_ms(hour("2026040501")), Some(ms("2026-04-04T15:30:00Z")));
        assert_eq!(z.starts_ms(hour("2026040502")), Some(ms("2026-04-04T15:30:00Z")));
    }

    #[test]
    fn offsets_of_half_and_quarter_hours() {
        assert_eq!(zone(KOLKATA).starts_ms(hour("2026010100")), Some(ms("2025-12-31T18:30:00Z")));
        assert_eq!(zone(KATHMANDU).starts_ms(hour("2026010100")), Some(ms("2025-12-31T18:15:00Z")));
        assert_eq!(zone(KATHMANDU).hour_at(ms("2025-12-31T18:14:59Z")), hour("2025123123"));
        let z = zone(ST_JOHNS);
        assert_eq!(z.starts_ms(hour("2026010100")), Some(ms("2026-01-01T03:30:00Z")));
        assert_eq!(z.hours_in_day(hour("20260308")), 23);
        assert_eq!(z.ends_ms(hour("2026110101")), Some(ms("2026-11-01T05:30:00Z")));
        assert_eq!(Zone::named("UTC").unwrap().starts_ms(hour("20260101")), Some(ms("2026-01-01T00:00:00Z")));
    }

    #[test]
    fn clocks_that_change_around_midnight() {
        let z = zone(HAVANA);
        assert_eq!(z.next(hour("2026030723")), hour("2026030801"));
        assert_eq!(z.starts_ms(hour("20260308")), z.starts_ms(hour("2026030801")));
        assert_eq!(z.ends_ms(hour("20260307")), z.starts_ms(hour("20260308")));
        // Put back from 00:01 to 23:01: the hour 23 comes again after a minute of the next day.
        let z = zone(ST_JOHNS_2010);
        let (h23, h00) = (hour("2010110623"), hour("2010110700"));
        assert_eq!(z.next(h23), h00);
        let begin = z.starts_ms(h00).unwrap();
        assert_eq!(z.hour_at(begin), h00);
        assert_eq!(z.hour_at(begin + MIN_MS), h23);
        assert_eq!(z.ends_ms(h23), Some(begin + 60 * MIN_MS));
        assert_eq!(z.ends_ms(h00), Some(begin + 120 * MIN_MS));
        assert_eq!(z.ends_ms(h23.day_of()), z.ends_ms(h23));
    }

    /// Samoa left out 30 December 2011. No POSIX rule can say that, so it needs the zone data.
    #[test]
    fn a_whole_day_can_be_missing() {
        let Ok(z) = Zone::named("Pacific/Apia") else { return }; // no zone data on this machine
        assert_eq!(z.starts_ms(hour("20111230")), None);
        assert_eq!(z.next(hour("20111229")), hour("20111231"));
        assert_eq!(z.next(hour("2011122923")), hour("2011123100"));
        assert_eq!(z.hours_in_day(hour("20111230")), 0);
    }

    /// Every minute of a year against jiff's own conversion, and every hour's borders.
    #[test]
    fn a_year_hour_by_hour() {
        for rule in [BERLIN, NEW_YORK, LORD_HOWE, KOLKATA, ST_JOHNS, KATHMANDU, HAVANA, ST_JOHNS_2010, "UTC0"]
        {
            let z = zone(rule);
            let mut first_last = std::collections::BTreeMap::new();
            let (begin, end) = (ms("2025-12-30T00:00:00Z"), ms("2027-01-03T00:00:00Z"));
            for at in (begin..end).step_by(MIN_MS as usize) {
                let civil = z.tz.to_datetime(Timestamp::from_millisecond(at).unwrap());
                let h = Hour::new(civil.year(), civil.month(), civil.day(), Some(civil.hour())).unwrap();
                assert_eq!(z.hour_at(at), h, "{rule} at {at}");
                first_last.entry(h).or_insert((at, at)).1 = at + MIN_MS;
            }
            let mut at = hour("2026010100");
            let mut days = std::collections::BTreeMap::new();
            while at < hour("2027010100") {
                let (first, last) = *first_last.get(&at).unwrap();
                assert_eq!(z.starts_ms(at), Some(first), "{rule} {at}");
                assert_eq!(z.ends_ms(at), Some(last), "{rule} {at}");
                let next = z.next(at);
                assert!(next > at && z.starts_ms(next) > z.starts_ms(at), "{rule} {at}");
                match rule {
                    ST_JOHNS_2010 => assert!(z.ends_ms(at) >= z.starts_ms(next), "{rule} {at}"),
                    _ => assert_eq!(z.ends_ms(at), z.starts_ms(next), "{rule} {at}"),
                }
                let following = first_last.range(at..).nth(1).map(|(h, _)| *h);
                assert_eq!(following, Some(next), "{rule}: after {at}");
                *days.entry(at.day_of()).or_insert(0) += 1;
                at = next;
            }
            assert!(days.iter().all(|(day, count)| z.hours_in_day(*day) == *count), "{rule}");
            assert_eq!(days.len(), 365, "{rule}");
        }
    }

    #[test]
    fn the_ends_of_the_calendar_do_not_panic() {
        for z in [zone(BERLIN), zone(NEW_YORK), zone(LORD_HOWE)] {
            for at in [i64::MIN, -1, 0, i64::MAX] {
                let h = z.hour_at(at);
                let _ = (z.starts_ms(h), z.ends_ms(h), z.next(h), z.hours_in_day(h), z.format_ms(at));
            }
            for text in ["1970010100", "19700101", "9999123123", "99991231", "9999123000"] {
                let h = hour(text);
                let _ = (z.starts_ms(h), z.ends_ms(h), z.next(h), z.hours_in_day(h));
            }
            assert_eq!(z.next(hour("99991231")), hour("99991231"));
        }
    }

    #[test]
    fn zones_by_name() {
        assert_eq!(Zone::named("UTC").unwrap().name(), "UTC");
        assert_eq!(Zone::named(BERLIN).unwrap().name(), BERLIN);
        let e = Zone::named("Mars/Olympus").unwrap_err();
        assert!(e.contains("Mars/Olympus") && e.contains("/usr/share/zoneinfo"), "{e}");
        assert!(Zone::named("").is_err());
        assert!(!Zone::local().unwrap().name().is_empty());
        if let Ok(z) = Zone::named("Europe/Berlin") {
            assert_eq!(z.starts_ms(hour("2026102502")), Some(ms("2026-10-25T00:00:00Z")));
        }
        assert_eq!(zone(BERLIN).format_ms(ms("2026-11-22T06:54:28.821Z")), "2026-11-22 07:54:28.821");
    }

    #[test]
    fn a_simulated_clock_moves_only_when_told() {
        let (clock, handle) = Clock::sim(1_000_500);
        assert_eq!((clock.now_ms(), clock.now_secs(), clock.mono_ms()), (1_000_500, 1000, 0));
        handle.advance(700);
        handle.step_wall(-5000);
        assert_eq!((clock.clone().now_ms(), clock.mono_ms()), (996_200, 700));
        let real = Clock::real();
        assert!(real.now_ms() > ms("2025-01-01T00:00:00Z") && real.mono_ms() < 60_000);
    }
}
