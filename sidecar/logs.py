"""Logging: one line for each record on stderr, as text or JSON, and never a secret in it.

Every text that leaves goes through a `Redactor`: what the settings hold as secret, and whatever looks like a credential
(an agent's own token is known at run time only). Extra fields (`log.info("...", extra={"stream": name})`) follow as
key=value or as JSON members. Times are RFC 3339, UTC, milliseconds.
"""

import logging
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TextIO
from urllib.parse import quote

import msgspec

REDACTED: Final = "[redacted]"

# Each keeps the group before the secret, so that a reader sees what stood there. In this order: the first takes a whole
# value, what is left is found by its own looks (no word boundary before them: `%3Dat_live_...` is one, too).
_LOOKS_SECRET: Final = (
    re.compile(
        r"((?:token|secret|password|api_?key|authorization)(?:=|%3d|\\*[\"']\s*[:=]\s*\\*[\"']))"
        r"(?!(?:bearer|basic)\b|\[redacted\])[^\s&\"'\\#,;)}\]]+",
        re.IGNORECASE,
    ),
    re.compile(r"((?:at|rk|ot|nt)_live_)[\w-]+"),
    re.compile(r"(\bfak_)[\w-]+"),
    re.compile(r"(\b(?:bearer|basic)(?:\s+|%20|\+))(?!\[redacted\])[^\s\"',;&]+", re.IGNORECASE),
    re.compile(r"(\bbot\s+)[\w-]{20,}\.[\w.-]+", re.IGNORECASE),
    re.compile(r"(\w://)[^\s/@\"']+(?=@)"),
    re.compile(r"()\beyJ[\w-]{8,}\.[\w-]+\.[\w-]+"),
)
_SECRET_FIELD: Final = re.compile(r"(token|secret|password|authorization|cookie|api_?key)$", re.IGNORECASE)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PLAIN: Final = re.compile(r"[^\s\"=]+")
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class Redactor:
    """Takes secrets out of a text: those given, as they are and percent-encoded, and all that looks like one."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets if secret for form in (secret, quote(secret, safe=""), repr(secret)[1:-1])}
        # The longest first: one secret may be the beginning of another.
        known = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
        self._known = re.compile(known) if known else None

    def __call__(self, text: str) -> str:
        # The known first: a pattern that hits the middle of one would leave its ends.
        text = self._known.sub(REDACTED, text) if self._known else text
        for pattern in _LOOKS_SECRET:
            text = pattern.sub(rf"\g<1>{REDACTED}", text)
        return text


class _LogSettings(Protocol):
    """The part of `sidecar.config.Settings` that logging needs."""

    @property
    def log_format(self) -> str: ...

    @property
    def log_level(self) -> str: ...

    def secrets(self) -> tuple[str, ...]: ...


class RedactingFilter(logging.Filter):
    """Rewrites a record in place, before any formatter sees it: message, exception, stack and extra fields."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # a wrong format must not cost the line
            message = f"{record.msg} {record.args!r}"
        record.msg, record.args = self._redact(message), None
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = self._redact(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        if record.stack_info:
            record.stack_info = self._redact(record.stack_info)
        for name, value in _extra(record):
            setattr(record, name, REDACTED if value and _SECRET_FIELD.search(name) else self._plain(value))
        return True

    def _plain(self, value: object) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        return self._redact(value if isinstance(value, str) else str(value))


def _extra(record: logging.LogRecord) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in record.__dict__.items() if name not in _STANDARD]


def _members(record: logging.LogRecord) -> dict[str, Any]:
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    members = {"time": time, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
    for name, value in _extra(record):
        # An extra field may not pass for the record's own time, level or logger.
        members[f"{name}_" if name in members else name] = value
    if record.exc_text:
        members["exception"] = record.exc_text
    if record.stack_info:
        members["stack"] = record.stack_info
    return members


def _one_line(text: str) -> str:
    """Control characters escaped: a text from outside can neither begin a line of its own nor move the cursor."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class TextFormatter(logging.Formatter):
    """`2025-01-01T00:00:00.000Z info    sidecar.app message key=value`."""

    def format(self, record: logging.LogRecord) -> str:
        members = _members(record)
        fixed = [members.pop(name) for name in ("time", "level", "logger", "message")]
        parts = [_one_line(str(fixed[0])), f"{fixed[1]:<7}", fixed[2], _one_line(fixed[3])]
        for name, value in members.items():
            text = _one_line(str(value))
            parts.append(f"{name}={text}" if _PLAIN.fullmatch(text) else f'{name}="{text.replace(chr(34), chr(39))}"')
        return " ".join(parts)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the extra fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        members = {
            name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
            for name, value in _members(record).items()
        }
        # Line separators beyond ASCII are legal in JSON, but some readers end a line there.
        return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", msgspec.json.encode(members).decode())


def configure(settings: _LogSettings, stream: TextIO | None = None) -> None:
    """Makes the root logger write to `stream` (default: stderr) as the settings say, and to nothing else.

    Libraries speak from warning upwards, unless the level is debug.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(RedactingFilter(Redactor(settings.secrets())))
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    root.setLevel(level if level <= logging.DEBUG else max(level, logging.WARNING))
    logging.getLogger("sidecar").setLevel(level)
    logging.captureWarnings(True)
