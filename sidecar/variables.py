"""What an environment variable is: its name, default, unit and meaning, and the function that reads its text.

Pure: no environment, no files. A parser takes the stripped, non-empty text and returns the value, or raises `BadValue`
with what is wrong and the mend; neither ever repeats a secret. The tables of variables stand in `sidecar/config.py`
and in each dialect's `settings.py`.
"""

import ipaddress
import math
import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

Parser = Callable[[str], Any]

_SIZE_UNITS: Final = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
    "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40,
}  # fmt: skip
_TIME_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_QUANTITY: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII)
_INTEGER: Final = re.compile(r"-?\d{1,19}", re.ASCII)
_PORT: Final = re.compile(r"\d{1,5}", re.ASCII)
_HOST_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*\.?", re.ASCII)
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#@\s\\*]+)", re.ASCII)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class BadValue(ValueError):
    """A text that a variable does not take: `text` says why, `mend` what to write; `name` if another one is meant."""

    def __init__(self, text: str, mend: str, name: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.mend = mend
        self.name = name


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table.

    `name` is the full name, in a dialect's table the part after `SIDECAR_<DIALECT>_`. `default` is the text an operator
    would write, read by the same parser; None with `default_note` when it is computed or there is none. `example` is
    shown in the env file where there is no default.
    """

    name: str
    meaning: str
    parse: Parser
    default: str | None = None
    default_note: str = "none"
    unit: str = ""
    secret: bool = False
    required: bool = False
    example: str = ""

    def prefixed(self, prefix: str) -> "Variable":
        """The same variable under its full name."""
        return msgspec.structs.replace(self, name=prefix + self.name)

    def default_text(self) -> str:
        """How the default is told to a person."""
        if self.required and self.default is None:
            return "required"
        return self.default_note if self.default is None else self.default


def quoted(text: str, longest: int = 60) -> str:
    """A value as it is shown in a message: quoted, control characters escaped, shortened."""
    return ascii(text if len(text) <= longest else text[:longest] + "...")


def text_value(text: str) -> str:
    """Any text."""
    return text


def integer(at_least: int, at_most: int) -> Parser:
    """A whole number within bounds, both included."""

    def parse(text: str) -> int:
        digits = text.replace("_", "")
        if not _INTEGER.fullmatch(digits):
            raise BadValue(f"is not a whole number: {quoted(text)}", f"write a number from {at_least} to {at_most}")
        number = int(digits)
        if not at_least <= number <= at_most:
            raise BadValue(f"is out of bounds: {number}", f"write a number from {at_least} to {at_most}")
        return number

    return parse


def boolean(text: str) -> bool:
    """`true`, `yes`, `on`, `1` or their opposites."""
    word = text.lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise BadValue(f"is neither true nor false: {quoted(text)}", "write true or false")


def one_of(*words: str) -> Parser:
    """One of a closed list, in lower case."""

    def parse(text: str) -> str:
        word = text.lower()
        if word not in words:
            raise BadValue(f"is not one of {', '.join(words)}: {quoted(text)}", f"write {' or '.join(words)}")
        return word

    return parse


def size(at_least: int, at_most: int) -> Parser:
    """Bytes: a number, with B, KB/MB/GB/TB (powers of 1000) or KiB/MiB/GiB/TiB, Ki/Mi/Gi/Ti (powers of 1024)."""

    def parse(text: str) -> int:
        match = _QUANTITY.fullmatch(text.lower())
        if match is None or match[2] not in _SIZE_UNITS:
            raise BadValue(f"is not a size: {quoted(text)}", "write bytes as a number, or with a unit, like 512MiB or 1GiB")
        number = int(float(match[1]) * _SIZE_UNITS[match[2]]) if "." in match[1] else int(match[1]) * _SIZE_UNITS[match[2]]
        if not at_least <= number <= at_most:
            raise BadValue(f"is out of bounds: {quoted(text)}", f"write a size from {at_least} to {at_most} bytes")
        return number

    return parse


def seconds(at_least: float, at_most: float) -> Parser:
    """A length of time in seconds: a number, with ms, s, m, h, d or w."""

    def parse(text: str) -> float:
        match = _QUANTITY.fullmatch(text.lower())
        if match is None or match[2] not in _TIME_UNITS:
            raise BadValue(f"is not a length of time: {quoted(text)}", "write seconds, or a unit, like 30, 1.5s, 12h or 7d")
        length = float(match[1]) * _TIME_UNITS[match[2]]
        if not (math.isfinite(length) and at_least <= length <= at_most):
            raise BadValue(f"is out of bounds: {quoted(text)}", f"write a time from {at_least:g} to {at_most:g} seconds")
        return length

    return parse


def listing(item: Parser) -> Parser:
    """Items with commas between them, in order, each once; empty ones are left out."""

    def parse(text: str) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(item(part.strip()) for part in text.split(",") if part.strip()))

    return parse


def host(text: str) -> str:
    """A host name or IP address without port, as it is compared: lower case, IPv6 compressed and without brackets."""
    bare = text.lower()
    if bare.startswith("[") and bare.endswith("]"):
        bare = bare[1:-1]
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    if ":" in bare:
        raise BadValue(f"is not a host without port: {quoted(text)}", "write the name or the address alone, like sidecar.local")
    # A name of digits and dots only would be a mistyped address, not a name.
    if not _HOST_NAME.fullmatch(bare) or re.fullmatch(r"[\d.]+", bare):
        raise BadValue(f"is not a host name or address: {quoted(text)}", "write a name like localhost or an address like 127.0.0.1")
    return bare.rstrip(".")


def host_port(text: str) -> tuple[str, int]:
    """`host:port`, an IPv6 address in brackets: (host without brackets, port 0 to 65535)."""
    mend = "write host:port, like 127.0.0.1:8787 or [::1]:8787; port 0 picks a free one"
    name, colon, port = text.rpartition(":")
    if not colon or not name:
        raise BadValue(f"is not host:port: {quoted(text)}", mend)
    if ":" in name and not (name.startswith("[") and name.endswith("]")):
        raise BadValue(f"is an IPv6 address without brackets, or more than host:port: {quoted(text)}", mend)
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise BadValue(f"has no port from 0 to 65535: {quoted(text)}", mend)
    try:
        return host(name), int(port)
    except BadValue:
        raise BadValue(f"has no valid host: {quoted(text)}", mend) from None


def is_loopback(name: str) -> bool:
    """Whether a listen host is reachable from this machine alone. Names other than localhost are not trusted to be."""
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def base_url(text: str) -> str:
    """An http(s) base URL: scheme, host, port and path; lower case where it does not matter, no default port, no slash
    at the end. The same server written twice gives the same text, which the data directory records."""
    mend = "write the base URL of the server, like https://api.example.com"
    if not text.isascii() or any(c <= " " or c in '\\"<>' or c == "\x7f" for c in text):
        raise BadValue("holds characters that no URL has", mend)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise BadValue("is not a URL: bad host or port", mend) from None
    if parts.scheme not in ("http", "https"):
        raise BadValue("does not begin with http:// or https://", mend)
    if "@" in parts.netloc:
        raise BadValue("has credentials in it", "write the URL without them; the token belongs into SIDECAR_UPSTREAM_TOKEN_FILE")
    if "?" in text or "#" in text:
        raise BadValue("has a query or a fragment", mend)
    if not parts.hostname or port == 0 or parts.netloc.endswith(":"):
        raise BadValue("has no valid host and port", mend)
    try:
        name = host(parts.hostname)
    except BadValue:
        raise BadValue("has no valid host", mend) from None
    shown = f"[{name}]" if ":" in name else name
    tail = "" if port is None or port == _DEFAULT_PORTS[parts.scheme] else f":{port}"
    return f"{parts.scheme}://{shown}{tail}{parts.path.rstrip('/')}"


def origin(text: str) -> str:
    """An exact origin as a browser sends it, `scheme://host[:port]`: lower case, without the scheme's default port."""
    mend = "write exact origins like https://app.example.com, with commas between them; null and * are never accepted"
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        raise BadValue(f"has something that is not an exact origin: {quoted(text)}", mend)
    scheme, rest = match.groups()
    default = _DEFAULT_PORTS.get(scheme)
    return f"{scheme}://{rest.removesuffix(f':{default}') if default else rest}"


def secret(text: str) -> str:
    """A token that fits into an HTTP header: printable ASCII, no space at either end. Never repeated in a message."""
    if any(not " " <= c <= "~" for c in text) or text != text.strip():
        raise BadValue(
            "holds characters that a token cannot have",
            "write it again, on one line, without quotes or spaces around it",
        )
    return text


def shown(variable: Variable, value: object) -> str:
    """A value as `sidecar check` prints it: secrets as set or not, lists with commas, numbers with their unit."""
    if variable.secret:
        return "not set" if value is None else "set, not shown"
    if value is None or value in ((), ""):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    number = f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)
    if isinstance(value, float) and value.is_integer():
        number = str(int(value))
    unit = f" {variable.unit}" if variable.unit and isinstance(value, int | float) else ""
    return (number + unit).encode("utf-8", "backslashreplace").decode()
