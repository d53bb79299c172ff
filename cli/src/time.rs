//! Points in time as people write and read them, in UTC unless they say otherwise.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds of a day.
const DAY: i64 = 86_400_000;

/// Unix time in milliseconds.
pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A time in Unix milliseconds: `2026-11-22T14:03:05.250Z`, with a space for the T, an offset for the Z, or without what
/// is to the right of the day; `14:03` or `14:03:05` of today; `15m` and such: so long ago; `now`; or milliseconds since
/// 1970 as they are printed elsewhere.
pub(crate) fn parse(text: &str) -> Result<i64, String> {
    parse_at(text, now_ms())
}

fn parse_at(text: &str, now_ms: i64) -> Result<i64, String> {
    let wrong = || {
        format!(
            "'{text}' is no time: write 2026-11-22T14:03:05Z, 14:03 (UTC, today), 15m (ago), now, or milliseconds since 1970"
        )
    };
    let text = text.trim();
    if text == "now" {
        return Ok(now_ms);
    }
    if text.len() > 9 && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_err(|_| wrong());
    }
    if let Some(ago) = ago(text) {
        return Ok(now_ms.saturating_sub(ago).max(0));
    }
    let moment = match text.split_once(['T', ' ']) {
        Some((day, clock)) => date(day).and_then(|day| Some(day + clock_ms(clock)?)),
        None => date(text).or_else(|| Some(now_ms.div_euclid(DAY) * DAY + clock_ms(text)?)),
    };
    moment.filter(|ms| *ms >= 0).ok_or_else(wrong)
}

/// "90s", "15m", "2h", "7d", in milliseconds.
fn ago(text: &str) -> Option<i64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => DAY,
        _ => return None,
    };
    number.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
    number.parse::<i64>().ok()?.checked_mul(unit)
}

/// The begin of a day `2026-11-22`, in Unix milliseconds.
fn date(text: &str) -> Option<i64> {
    let mut parts = text.splitn(3, '-');
    let (year, month, day) =
        (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let days = days_from_civil(year, month, day);
    // A day that does not exist comes back as another one.
    (civil_from_days(days) == (year, month, day)).then_some(days * DAY)
}

/// `14:03`, `14:03:05` or `14:03:05.250`, with `Z` or an offset `+02:00`, in milliseconds from midnight in UTC.
fn clock_ms(text: &str) -> Option<i64> {
    let (text, offset) = match text.strip_suffix('Z') {
        Some(text) => (text, 0),
        None => match text.rfind(['+', '-']) {
            Some(at) => {
                let (text, offset) = text.split_at(at);
                let (hours, minutes) = offset.get(1..)?.split_once(':')?;
                let ms = (digits(hours, 2)? * 60 + digits(minutes, 2)?) * 60_000;
                (text, if offset.starts_with('-') { -ms } else { ms })
            }
            None => (text, 0),
        },
    };
    let mut parts = text.splitn(3, ':');
    let (hours, minutes) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let (seconds, ms) = match parts.next() {
        None => (0, 0),
        Some(seconds) => match seconds.split_once('.') {
            None => (digits(seconds, 2)?, 0),
            Some((seconds, fraction)) => {
                let three = format!("{fraction:0<3}");
                fraction.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
                (digits(seconds, 2)?, digits(three.get(..3)?, 3)?)
            }
        },
    };
    (hours < 24 && minutes < 60 && seconds < 60).then_some(())?;
    Some(((hours * 60 + minutes) * 60 + seconds) * 1000 + ms - offset)
}

/// Exactly so many digits.
fn digits(text: &str, count: usize) -> Option<i64> {
    (text.len() == count && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Days from 1970-01-01 of a day of the Gregorian calendar. Years begin in March here, so that the leap day is the last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The other way round: year, month, day.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

/// "2026-11-22T14:03:05.250Z".
pub(crate) fn show(ms: i64) -> String {
    let (year, month, day) = civil_from_days(ms.div_euclid(DAY));
    let rest = ms.rem_euclid(DAY);
    let (hours, minutes, seconds) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", rest % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_795_356_185_250;

    #[test]
    fn times_are_read_in_all_forms() {
        assert_eq!(show(NOW), "2026-11-22T14:03:05.250Z");
        for (text, want) in [
            ("2026-11-22T14:03:05.250Z", NOW),
            ("2026-11-22 14:03:05.25", NOW),
            ("2026-11-22T16:03:05.250+02:00", NOW),
            ("2026-11-22T09:33:05.2501-04:30", NOW),
            ("1795356185250", NOW),
            ("now", NOW),
            ("14:03", NOW - 5_250),
            ("15m", NOW - 900_000),
            ("7d", NOW - 7 * DAY),
            ("2026-11-22", NOW - NOW.rem_euclid(DAY)),
            ("2024-02-29", 1_709_164_800_000),
        ] {
            assert_eq!(parse_at(text, NOW), Ok(want), "{text}");
        }
        for bad in [
            "",
            "x",
            "2023-02-29",
            "2026-13-01",
            "25:00",
            "14:60",
            "-5m",
            "5",
            "1e9h",
            "2026-11-22T",
            "T14:03",
            "m",
        ] {
            assert!(parse_at(bad, NOW).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read(ms in 0i64..253_402_300_800_000) {
            prop_assert_eq!(parse_at(&show(ms), NOW), Ok(ms));
        }

        #[test]
        fn any_text_is_answered(text in "[0-9TZ:. +é-]{0,30}") {
            let _ = parse_at(&text, NOW);
        }
    }
}
