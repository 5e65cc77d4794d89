"""The parsers of sidecar.variables: what they take, what they refuse, and that a refusal helps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import variables as v
from sidecar.variables import BadValue, Parser, Variable


@pytest.mark.parametrize(
    ("parser", "text", "value"),
    [
        (v.integer(1, 100), "1", 1),
        (v.integer(1, 100_000), "100_000", 100_000),
        (v.boolean, "Yes", True),
        (v.boolean, "0", False),
        (v.one_of("power", "process"), "POWER", "power"),
        (v.size(0, 2**44), "1GiB", 2**30),
        (v.size(0, 2**44), "1 gib", 2**30),
        (v.size(0, 2**44), "512Mi", 512 * 2**20),
        (v.size(0, 2**44), "1.5KiB", 1536),
        (v.size(0, 2**44), "2GB", 2 * 10**9),
        (v.size(0, 2**44), "1073741824", 2**30),
        (v.seconds(0, 1e9), "7d", 604800.0),
        (v.seconds(0, 1e9), "30", 30.0),
        (v.seconds(0, 1e9), "250ms", 0.25),
        (v.seconds(0, 1e9), "1.5h", 5400.0),
        (v.host_port, "127.0.0.1:8787", ("127.0.0.1", 8787)),
        (v.host_port, "[::1]:8787", ("::1", 8787)),
        (v.host_port, "[0:0::0:1]:0", ("::1", 0)),
        (v.host_port, "LocalHost:65535", ("localhost", 65535)),
        (v.host, "[FE80::1]", "fe80::1"),
        (v.host, "Sidecar.Internal.", "sidecar.internal"),
        (v.base_url, "https://API.example.com:443/", "https://api.example.com"),
        (v.base_url, "HTTP://[::1]:80/v1//", "http://[::1]/v1"),
        (v.base_url, "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        (v.base_url, "https://h/Api/", "https://h/Api"),
        (v.origin, "https://App.example.com:443", "https://app.example.com"),
        (v.origin, "http://localhost:3000", "http://localhost:3000"),
        (v.origin, "chrome-extension://abcdef", "chrome-extension://abcdef"),
        (v.listing(v.origin), "https://a.b, http://c:1,,https://a.b", ("https://a.b", "http://c:1")),
        (v.secret, "Bot abc.def", "Bot abc.def"),
    ],
)
def test_takes(parser: Parser, text: str, value: object) -> None:
    assert parser(text) == value


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        *[(v.integer(1, 100), t) for t in ("0", "101", "-1", "1.0", "0x10", "", "٣", "9" * 40)],
        *[(v.boolean, t) for t in ("maybe", "2", "")],
        *[(v.one_of("power", "process"), t) for t in ("powerful", "")],
        *[(v.size(1024, 2**44), t) for t in ("1023", "1G", "-1GiB", "1e9", "GiB", "1 GiB!", "17TiB", "inf", "9" * 400)],
        *[(v.seconds(1, 100), t) for t in ("0.5", "101", "2m", "nan", "inf", "-1", "1 day", "1e1", "9" * 400)],
        *[(v.host_port, t) for t in ("8787", ":8787", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "::1:8787", "[::1]")],
        *[(v.host_port, t) for t in ("*:8787", "[localhost:1", "256.0.0.1:1", "a b:1", "127.0.0.1:+80", "http://h:1", "1:2:3")],
        *[(v.host, t) for t in ("example.com:80", "*", "a/b", "[::1]:80", "999.1.1.1", "-a", "")],
        *[(v.base_url, t) for t in ("example.com", "ws://h", "https://", "https:///p", "https://u:p@h", "https://h?q=1", "https://h#f")],
        *[
            (v.base_url, t)
            for t in ("https://h?", "https://h#", "https://h:99999", "https://h:0", "https://h:", "https://h o", "file:///x")
        ],
        *[(v.base_url, t) for t in ("https://h\\@evil", "https://h\n", "https://höst", "https://[::1", "https://@h", "https://*")],
        *[(v.origin, t) for t in ("*", "null", "https://a.b/", "https://a.b/path", "a.b", "https://u@a.b", "https://*.a.b", "https://")],
        *[(v.secret, t) for t in ("a\nb", " a", "a ", "tök", "a\tb", "\udcff")],
    ],
)
def test_refuses_with_a_mend(parser: Parser, text: str) -> None:
    with pytest.raises(BadValue) as caught:
        parser(text)
    assert caught.value.text
    assert caught.value.mend


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        (v.secret, "hunter2\x00"),
        (v.base_url, "https://user:hunter2@h"),
        (v.base_url, "https://h/?token=hunter2"),
        (v.base_url, "hunter2"),
    ],
)
def test_a_refusal_never_repeats_what_may_be_secret(parser: Parser, text: str) -> None:
    with pytest.raises(BadValue) as caught:
        parser(text)
    assert "hunter2" not in caught.value.text + caught.value.mend


@pytest.mark.parametrize("name", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "::ffff:127.0.0.1"])
def test_loopback(name: str) -> None:
    assert v.is_loopback(name)


@pytest.mark.parametrize(
    "name", ["0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.example.com", "::ffff:10.0.0.1", "127.0.0.1.nip.io"]
)
def test_not_loopback(name: str) -> None:
    assert not v.is_loopback(name)


ALL_PARSERS = [
    v.integer(1, 100), v.boolean, v.one_of("a"), v.size(1, 100), v.seconds(1, 100), v.host, v.host_port, v.base_url, v.origin,
    v.listing(v.host), v.secret,
]  # fmt: skip


@given(st.sampled_from(ALL_PARSERS), st.text(min_size=1))
def test_any_text_gives_a_value_or_bad_value(parser: Parser, text: str) -> None:
    try:
        parser(text)
    except BadValue as bad:
        assert bad.mend


@given(st.sampled_from([v.host, v.base_url, v.origin]), st.from_regex(r"(https?://)?[a-zA-Z0-9.\[\]:-]{1,20}(:[0-9]{1,5})?/{0,2}"))
def test_normal_form_is_its_own_normal_form(parser: Parser, text: str) -> None:
    try:
        once = parser(text)
    except BadValue:
        return
    assert parser(once) == once


def test_shown() -> None:
    plain = Variable(name="X", meaning="", parse=v.text_value, unit="s")
    hidden = Variable(name="X", meaning="", parse=v.secret, secret=True)
    assert v.shown(plain, 604800.0) == "604800 s"
    assert v.shown(plain, 0.25) == "0.25 s"
    assert v.shown(plain, ("a", "b")) == "a, b"
    assert v.shown(plain, ()) == "none"
    assert v.shown(plain, True) == "true"
    assert v.shown(plain, "\udcff").isprintable()
    assert v.shown(hidden, "hunter2") == "set, not shown"
    assert v.shown(hidden, None) == "not set"


def test_the_default_as_told() -> None:
    assert Variable(name="X", meaning="", parse=v.text_value, default="7d").default_text() == "7d"
    assert Variable(name="X", meaning="", parse=v.text_value, required=True).default_text() == "required"
    assert Variable(name="X", meaning="", parse=v.text_value, default_note="the dialect's").default_text() == "the dialect's"
