"""Server times as text: ISO 8601 and the HTTP Date header, to and from Unix milliseconds. Pure arithmetic, no clock."""

from __future__ import annotations

import re

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)?\s*(Z|[+-]\d\d:?\d\d)?", re.ASCII | re.IGNORECASE
)
_HTTP = re.compile(r"\w{3,9}, (\d\d)[ -](\w{3})[ -](\d{4}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII)


def _days(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 to a date of the Gregorian calendar."""
    y = year - (month <= 2)
    era = y // 400
    of_era = y - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


def _date(days: int) -> tuple[int, int, int]:
    """The inverse of `_days`."""
    z = days + 719468
    era = z // 146097
    of_era = z - era * 146097
    year_of_era = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    m = (5 * of_year + 2) // 153
    month = m + (3 if m < 10 else -9)
    return year_of_era + era * 400 + (month <= 2), month, of_year - (153 * m + 2) // 5 + 1


def iso(ms: int) -> str:
    """Unix milliseconds as `2026-06-25T10:00:00.000Z`; times before 1970 as 1970."""
    seconds, millis = divmod(max(ms, 0), 1000)
    days, rest = divmod(seconds, 86400)
    year, month, day = _date(days)
    return f"{year:04d}-{month:02d}-{day:02d}T{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}.{millis:03d}Z"


def parse_iso(text: object) -> int | None:
    """Unix milliseconds of an ISO 8601 text (without zone: UTC), None for anything else."""
    match = _ISO.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    ms = _days(int(year), int(month), int(day)) * 86_400_000
    ms += int(hour or 0) * 3_600_000 + int(minute or 0) * 60_000 + int(second or 0) * 1000
    ms += int((fraction or "0").ljust(3, "0")[:3])
    if zone and zone not in "Zz":
        offset = (int(zone[1:3]) * 60 + int(zone[-2:])) * 60_000
        ms += -offset if zone[0] == "+" else offset
    return ms


def parse_http_date(text: str | None) -> int | None:
    """Unix milliseconds of an HTTP date (RFC 9110 section 5.6.7, IMF-fixdate), None for anything else."""
    match = _HTTP.fullmatch(text.strip()) if text else None
    if match is None or match[2].title() not in _MONTHS:
        return None
    days = _days(int(match[3]), _MONTHS.index(match[2].title()) + 1, int(match[1]))
    return (days * 86400 + int(match[4]) * 3600 + int(match[5]) * 60 + int(match[6])) * 1000
