"""Configuration: the one table of variables, and the one struct of settings that is read from it.

`sidecar check`, the messages of `ConfigError` and `conf/*.env` (sidecar/envfile.py) all come from `COMMON` and the
dialects' own tables. The environment is read once, at start; nothing else in the package looks at it.

Rules (contract.md, Environment): a name that begins with SIDECAR_ and is not known is an error, but for
SIDECAR_SERVICE_* and SIDECAR_PORT* (Kubernetes). A knob of a dialect that is built but not selected is accepted and
not used, so that one file can serve several sidecars. An empty value counts as not set. Every secret also exists as
`<name>_FILE`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from sidecar import variables as v
from sidecar.dialects import registry
from sidecar.environment import FILE, Reader
from sidecar.errors import ConfigError
from sidecar.variables import BadValue, Variable

COMMON: Final = (
    Variable(
        name="SIDECAR_DIALECT",
        required=True,
        example="relaycast",
        meaning="the protocol that agent and server speak: " + ", ".join(registry.names()),
        parse=v.text_value,
    ),
    Variable(
        name="SIDECAR_UPSTREAM",
        required=True,
        example="https://api.example.com",
        meaning="the server: base URL, http or https, without query or credentials",
        parse=v.base_url,
    ),
    Variable(
        name="SIDECAR_LISTEN",
        default="127.0.0.1:8787",
        unit="host:port",
        meaning="where agents connect; port 0 picks a free one and prints it",
        parse=v.host_port,
    ),
    Variable(
        name="SIDECAR_DATA_DIR",
        default_note="$XDG_STATE_HOME/sidecar/<dialect>, else ~/.local/state/sidecar/<dialect>",
        example="/var/lib/sidecar",
        meaning="the journal's directory, on a local disk; belongs to one dialect and one upstream",
        parse=v.text_value,
    ),
    Variable(
        name="SIDECAR_UPSTREAM_TOKEN",
        secret=True,
        meaning="when set, the upstream is held from start-up on, before any agent connects",
        parse=v.secret,
    ),
    Variable(
        name="SIDECAR_LOCAL_TOKEN",
        secret=True,
        meaning="bearer asked for on the native stream and /_sidecar/*; required unless the listen address is loopback",
        parse=v.secret,
    ),
    Variable(
        name="SIDECAR_ALLOWED_ORIGINS",
        default_note="none besides the sidecar's own",
        example="https://app.example.com",
        unit="origins, comma between",
        meaning="exact browser origins that may connect; any other Origin gets 403",
        parse=v.listing(v.origin),
    ),
    Variable(
        name="SIDECAR_ALLOWED_HOSTS",
        default_note="none besides loopback names, the listen address and the socket's own IP",
        example="sidecar.example.internal",
        unit="hosts, comma between",
        meaning="further Host names that are accepted, without port",
        parse=v.listing(v.host),
    ),
    Variable(
        name="SIDECAR_DURABILITY",
        default="power",
        unit="power or process",
        meaning="power: fsync at each commit; process: survives kill -9, not a power cut",
        parse=v.one_of("power", "process"),
    ),
    Variable(
        name="SIDECAR_RETENTION_BYTES",
        default="1GiB",
        unit="bytes",
        meaning="the journal's size, at most",
        parse=v.size(2**20, 2**44),
    ),
    Variable(
        name="SIDECAR_RETENTION_S",
        default="7d",
        unit="s",
        meaning="events older than this are pruned; a consumer not seen for so long is forgotten",
        parse=v.seconds(1, 3650 * 86400),
    ),
    Variable(
        name="SIDECAR_DEDUPE_EVENTS",
        default="100000",
        unit="events",
        meaning="event ids remembered at least per order domain, whatever retention does",
        parse=v.integer(1, 100_000_000),
    ),
    Variable(
        name="SIDECAR_LINGER_S",
        default_note="the dialect's",
        example="300",
        unit="s",
        meaning="how long the upstream is held after the last local client left",
        parse=v.seconds(0, 3650 * 86400),
    ),
    Variable(
        name="SIDECAR_WINDOW",
        default="256",
        unit="frames",
        meaning="frames sent beyond a consumer's last receipt on disk, at most; also at most 1 MiB",
        parse=v.integer(1, 65536),
    ),
    Variable(
        name="SIDECAR_DRAIN_S",
        default="5",
        unit="s",
        meaning="how long a planned stop waits for receipts",
        parse=v.seconds(0, 3600),
    ),
    Variable(
        name="SIDECAR_LOG_FORMAT",
        default="text",
        unit="text or json",
        meaning="one line for each record on stderr, for people or for machines",
        parse=v.one_of("text", "json"),
    ),
    Variable(
        name="SIDECAR_LOG_LEVEL",
        default="info",
        unit="debug, info, warning or error",
        meaning="what is logged; never a secret, at any level",
        parse=v.one_of("debug", "info", "warning", "error"),
    ),
)

_BY_NAME: Final = {variable.name: variable for variable in COMMON}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the environment decides, checked. Never shows a secret in repr or str. Times in seconds."""

    dialect: str
    upstream: str
    """Base URL in one spelling, without a slash at the end."""
    listen_host: str
    """IPv6 without brackets."""
    listen_port: int
    data_dir: Path
    """Absolute; need not exist yet."""
    upstream_token: str | None
    local_token: str | None
    allowed_origins: tuple[str, ...]
    """Lower case, without the scheme's default port."""
    allowed_hosts: tuple[str, ...]
    """What the operator added: lower case, without port or brackets."""
    durability: Literal["power", "process"]
    retention_bytes: int
    retention_s: float
    dedupe_events: int
    linger_s: float
    window: int
    drain_s: float
    log_format: Literal["text", "json"]
    log_level: Literal["debug", "info", "warning", "error"]
    knobs: msgspec.Struct
    """The dialect's own struct."""

    def secrets(self) -> tuple[str, ...]:
        """The secrets known from the environment, for the log's redaction."""
        return tuple(token for token in (self.upstream_token, self.local_token) if token)

    def __rich_repr__(self) -> Any:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            yield name, "[redacted]" if name.endswith("_token") and value is not None else value

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """How a command on this machine reaches a running sidecar."""

    listen_host: str
    listen_port: int
    local_token: str | None

    def __repr__(self) -> str:
        return f"Access(listen_host={self.listen_host!r}, listen_port={self.listen_port!r})"


def known_names() -> set[str]:
    """Every name the environment may hold, of every dialect that is built."""
    table = [*COMMON, *(variable for name in registry.names() for variable in knobs_of(name))]
    files = {variable.name + FILE for variable in table if variable.secret}
    return files | {variable.name for variable in table}


def knobs_of(dialect: str) -> tuple[Variable, ...]:
    """A built dialect's own variables, under their full names."""
    return tuple(variable.prefixed(registry.prefix(dialect)) for variable in registry.configured(dialect).variables)


def _dialect(reader: Reader) -> str | None:
    name = reader.read(_BY_NAME["SIDECAR_DIALECT"])
    if name is None:
        return None
    built = ", ".join(registry.names())
    if name.lower() in registry.names():
        return str(name.lower())
    if name.lower() in registry.PLANNED:
        reader.wrong("SIDECAR_DIALECT", f"names {name.lower()}, which is not built yet", f"set it to one of: {built}")
    else:
        reader.wrong("SIDECAR_DIALECT", f"names no dialect: {v.quoted(name)}", f"set it to one of: {built}")
    return None


def _data_dir(reader: Reader, dialect: str) -> Path | None:
    text = reader.read(_BY_NAME["SIDECAR_DATA_DIR"])
    home = reader.environ.get("HOME", "").strip()
    state = reader.environ.get("XDG_STATE_HOME", "").strip()
    if text is None and os.path.isabs(state):  # the XDG specification has relative ones ignored
        return Path(state, "sidecar", dialect)
    if text is None or text == "~" or text.startswith("~/"):
        if not os.path.isabs(home):
            reader.wrong("SIDECAR_DATA_DIR", "has no default: HOME is not set", "set it to a directory on a local disk")
            return None
        return Path(home, text[2:]) if text else Path(home, ".local", "state", "sidecar", dialect)
    return Path(text).absolute()


def _knobs(reader: Reader, dialect: str) -> msgspec.Struct | None:
    before = len(reader.problems)
    values = {variable.name: reader.read(variable) for variable in knobs_of(dialect)}
    if len(reader.problems) > before:
        return None
    prefix = registry.prefix(dialect)
    try:
        return registry.configured(dialect).settings_for({n.removeprefix(prefix): value for n, value in values.items()})
    except BadValue as bad:
        reader.wrong(prefix + bad.name, bad.text, bad.mend)
        return None


def _same_place(upstream: str, listen: tuple[str, int]) -> bool:
    parts = urlsplit(upstream)
    name = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    local = v.is_loopback(name) and (v.is_loopback(listen[0]) or listen[0] in ("0.0.0.0", "::"))
    return port == listen[1] and (local or name == listen[0])


def load(environ: Mapping[str, str]) -> Settings:
    """The settings that an environment means. Reads the `_FILE`s it names and nothing else; changes nothing.

    Raises ConfigError with every problem found, each naming its variable and the mend.
    """
    reader = Reader(environ)
    dialect = _dialect(reader)
    apart = ("SIDECAR_DIALECT", "SIDECAR_DATA_DIR", "SIDECAR_UPSTREAM")
    values: dict[str, Any] = {name: reader.read(var) for name, var in _BY_NAME.items() if name not in apart}
    home = registry.configured(dialect).default_upstream if dialect else None
    upstream = reader.read(msgspec.structs.replace(_BY_NAME["SIDECAR_UPSTREAM"], default=home))
    data_dir = _data_dir(reader, dialect) if dialect else None
    knobs = _knobs(reader, dialect) if dialect else None
    listen = values["SIDECAR_LISTEN"]
    token_bad = any(p.variable.startswith("SIDECAR_LOCAL_TOKEN") for p in reader.problems)
    if listen and not v.is_loopback(listen[0]) and values["SIDECAR_LOCAL_TOKEN"] is None and not token_bad:
        reader.wrong(
            "SIDECAR_LOCAL_TOKEN",
            f"is not set, and SIDECAR_LISTEN ({v.quoted(listen[0])}) can be reached from other machines",
            "set it to a long random text, or listen on 127.0.0.1",
        )
    if upstream and listen and _same_place(upstream, listen):
        reader.wrong(
            "SIDECAR_UPSTREAM",
            f"points at SIDECAR_LISTEN ({upstream}): the sidecar would dial itself",
            "set it to the server; the agent is what points at the sidecar",
        )
    reader.unknown(known_names())
    if reader.problems or dialect is None or upstream is None or data_dir is None or knobs is None:
        raise ConfigError(reader.problems)
    linger = values["SIDECAR_LINGER_S"]
    return Settings(
        dialect=dialect,
        upstream=upstream,
        listen_host=listen[0],
        listen_port=listen[1],
        data_dir=data_dir,
        upstream_token=values["SIDECAR_UPSTREAM_TOKEN"],
        local_token=values["SIDECAR_LOCAL_TOKEN"],
        allowed_origins=values["SIDECAR_ALLOWED_ORIGINS"] or (),
        allowed_hosts=values["SIDECAR_ALLOWED_HOSTS"] or (),
        durability=values["SIDECAR_DURABILITY"],
        retention_bytes=values["SIDECAR_RETENTION_BYTES"],
        retention_s=values["SIDECAR_RETENTION_S"],
        dedupe_events=values["SIDECAR_DEDUPE_EVENTS"],
        linger_s=registry.configured(dialect).linger_s if linger is None else linger,
        window=values["SIDECAR_WINDOW"],
        drain_s=values["SIDECAR_DRAIN_S"],
        log_format=values["SIDECAR_LOG_FORMAT"],
        log_level=values["SIDECAR_LOG_LEVEL"],
        knobs=knobs,
    )


def load_access(environ: Mapping[str, str]) -> Access:
    """What `sidecar status` needs, from the two variables that matter to it: a person's shell may hold no others.

    Raises ConfigError.
    """
    reader = Reader(environ)
    listen = reader.read(_BY_NAME["SIDECAR_LISTEN"])
    token = reader.read(_BY_NAME["SIDECAR_LOCAL_TOKEN"])
    if reader.problems:
        raise ConfigError(reader.problems)
    return Access(listen_host=listen[0], listen_port=listen[1], local_token=token)
