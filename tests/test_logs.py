"""sidecar.logs: one line for each record, and no secret in any of them."""

import io
import json
import logging
import re
from collections.abc import Iterator

import msgspec
import pytest

from sidecar.logs import Redactor, configure

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


class LogSettings(msgspec.Struct, frozen=True):
    log_format: str = "text"
    log_level: str = "info"
    known: tuple[str, ...] = ()

    def secrets(self) -> tuple[str, ...]:
        return self.known


class Log:
    """The log as configured, and what came out of it."""

    def __init__(self, settings: LogSettings) -> None:
        self.stream = io.StringIO()
        configure(settings, self.stream)
        self.logger = logging.getLogger("sidecar.test")

    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("sidecar")
    before = root.handlers[:], root.level, own.level
    yield
    root.handlers[:], root.level, own.level = before
    logging.captureWarnings(False)


def test_text_is_one_line_with_fields() -> None:
    log = Log(LogSettings())
    log.logger.info("link %s", "up", extra={"stream": "a", "text": 'two "words"', "count": 3, "none": None})
    (line,) = log.lines()
    assert re.fullmatch(rf"{TIME} info    sidecar\.test link up stream=a text=\"two 'words'\" count=3 none=None", line)


def test_json_is_one_object_a_line() -> None:
    log = Log(LogSettings(log_format="json"))
    log.logger.warning("link %s", "down", extra={"stream": "a", "count": 3, "ok": True, "level": "mine", "path": ("x",)})
    (line,) = log.lines()
    record = json.loads(line)
    assert re.fullmatch(TIME, record.pop("time"))
    assert record == {
        "level": "warning",
        "logger": "sidecar.test",
        "message": "link down",
        "stream": "a",
        "count": 3,
        "ok": True,
        "level_": "mine",
        "path": "('x',)",
    }


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_text_from_outside_cannot_begin_a_line_of_its_own(form: str) -> None:
    log = Log(LogSettings(log_format=form))
    log.logger.info("name %s", "a\n2025 error forged\r\x1b[2J\u2028", extra={"reason": "x\ny"})
    (line,) = log.stream.getvalue().split("\n")[:-1]
    assert line.isprintable()


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_is_in_the_same_line(form: str) -> None:
    log = Log(LogSettings(log_format=form))
    try:
        raise ValueError("at_live_abc123 broke")
    except ValueError:
        log.logger.exception("it failed")
    (line,) = log.lines()
    assert "it failed" in line
    assert "Traceback" in line
    assert "broke" in line
    assert "abc123" not in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_wrong_format_does_not_cost_the_line(form: str) -> None:
    log = Log(LogSettings(log_format=form))
    log.logger.info("%d", "no number")
    (line,) = log.lines()
    assert "no number" in line


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("secret", ["swordfish", 'quo"ted\\tok', "a+b/c=="])
def test_a_known_secret_is_nowhere_in_a_record(form: str, secret: str) -> None:
    log = Log(LogSettings(log_format=form, known=(secret,)))
    log.logger.info("in the message %s", secret, extra={"url": f"/x?y={secret}", "any": {"k": secret}, "exc": OSError(secret)})
    try:
        raise OSError(secret)
    except OSError:
        log.logger.exception("failed", stack_info=True)
    assert len(log.lines()) == 2
    for form_of_it in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]):
        assert form_of_it not in log.stream.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_field_that_is_called_a_secret_is_not_shown(form: str) -> None:
    log = Log(LogSettings(log_format=form))
    log.logger.info("x", extra={"token": "hunter2", "local_token": "hunter2", "Authorization": "hunter2", "token_known": True})
    (line,) = log.lines()
    assert "hunter2" not in line
    assert "token_known" in line


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_levels(level: str) -> None:
    log = Log(LogSettings(log_level=level))
    names = ["debug", "info", "warning", "error"]
    for name in names:
        getattr(log.logger, name)("mark")
    assert [line.split()[1] for line in log.lines()] == names[names.index(level) :]


def test_libraries_speak_from_warning_upwards() -> None:
    log = Log(LogSettings(log_level="info"))
    logging.getLogger("aiohttp.access").info("GET /v1/ws?token=at_live_x")
    logging.getLogger("aiohttp.server").error("broken token=at_live_x")
    (line,) = log.lines()
    assert line.endswith("broken token=[redacted]")


def test_configured_twice_speaks_once() -> None:
    Log(LogSettings())
    log = Log(LogSettings())
    log.logger.info("once")
    assert len(log.lines()) == 1


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("/v1/ws?token=hunter2&x=1", "/v1/ws?token=[redacted]&x=1"),
        ("?access_token=hunter2#f", "?access_token=[redacted]#f"),
        ("token%3Dhunter2", "token%3D[redacted]"),
        ("Authorization: Bearer hunter2", "Authorization: Bearer [redacted]"),
        ("authorization=Bearer hunter2 x", "authorization=Bearer [redacted] x"),
        ("('authorization', b'bearer hunter2')", "('authorization', b'bearer [redacted]')"),
        ("basic aHVudGVyMg==", "basic [redacted]"),
        ("x%3Dat_live_hunter2", "x%3Dat_live_[redacted]"),
        ("agent at_live_hunter2.", "agent at_live_[redacted]."),
        ("rk_live_hunter2/nt_live_hunter2", "rk_live_[redacted]/nt_live_[redacted]"),
        ("key fak_hunter2", "key fak_[redacted]"),
        ('{"token":"hunter2","a":1}', '{"token":"[redacted]","a":1}'),
        ("{'api_key': 'hunter2'}", "{'api_key': '[redacted]'}"),
        ('"{\\"token\\":\\"hunter2\\"}"', '"{\\"token\\":\\"[redacted]\\"}"'),
        ("https://user:hunter2@proxy:1/x", "https://[redacted]@proxy:1/x"),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJodW50ZXIyIjoxfQ.c2ln", "jwt [redacted]"),
    ],
)
def test_what_looks_like_a_secret(text: str, redacted: str) -> None:
    assert Redactor()(text) == redacted


@pytest.mark.parametrize(
    "text",
    ["the token is not set", "3 tokens seen", "http://127.0.0.1:8787/v1/ws", "stream a@b.c at 5", "the bot is gone"],
)
def test_what_does_not(text: str) -> None:
    assert Redactor()(text) == text


def test_one_secret_may_begin_another() -> None:
    assert Redactor(["abc", "abcdef", ""])("abcdef abc") == "[redacted] [redacted]"


def test_a_known_secret_goes_whole_whatever_it_looks_like() -> None:
    assert Redactor(["head;at_live_x;tail"])("head;at_live_x;tail token=head;at_live_x;tail") == "[redacted] token=[redacted]"


def test_a_known_secret_in_a_url() -> None:
    assert Redactor(["a/b c"])("x=a%2Fb%20c a/b c") == "x=[redacted] [redacted]"
