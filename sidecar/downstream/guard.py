"""Who may talk to the listen address: Host (DNS rebinding), Origin (foreign web pages), the local token on `/_sidecar/`.

Pure functions over what stands on the wire, and one middleware. Nothing that is refused here reaches the upstream (contract
"On the listen address", fabric R35, actioncable R30).
"""

import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote

from aiohttp import web

OWN: Final = "/_sidecar"
HEALTH: Final = frozenset({"/_sidecar/livez", "/_sidecar/readyz", "/_sidecar/startupz"})
"""Open to anyone who passes the Host and Origin check."""

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::([0-9]{1,5}))?")
_ORIGIN: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#@\\\s]+)/?")
_DEFAULT_PORT: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_DECODE_ROUNDS: Final = 4

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refusal(NamedTuple):
    """An answer instead of service: status, header fields, one line of plain text."""

    status: int
    headers: tuple[tuple[str, str], ...]
    text: str


def split_host(value: str) -> tuple[str, int | None] | None:
    """A `Host` value as (canonical name, port); None if it is malformed. Names are lower-cased, without a final dot; addresses
    in their shortest form, an IPv4 address mapped into IPv6 as IPv4."""
    match = _HOST.fullmatch(value)
    if match is None or (match[2] and int(match[2]) > 65535):
        return None
    return canonical_host(match[1]), int(match[2]) if match[2] else None


def canonical_host(name: str) -> str:
    """A host name or address (brackets allowed) in the form that is compared."""
    bare = name.strip("[]").lower().removesuffix(".")
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return bare
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def names_host(origin: str, host: str) -> bool:
    """Whether an `Origin` (http, https, ws, wss) is the one that a `Host` names, port included. A port that is missing on either
    side is the default of the origin's scheme. A slash at the end is let pass: agents send their configured URL."""
    match = _ORIGIN.fullmatch(origin)
    default = _DEFAULT_PORT.get(match[1].lower()) if match else None
    if match is None or default is None:
        return False
    theirs, ours = split_host(match[2]), split_host(host)
    if theirs is None or ours is None:
        return False
    return (theirs[0], theirs[1] or default) == (ours[0], ours[1] or default)


def path_of(target: str) -> str:
    """The raw path of a request target, in origin form or absolute form; nothing decoded."""
    if not target.startswith("/"):
        _, mark, rest = target.partition("://")
        slash = rest.find("/")
        target = (rest[slash:] if slash >= 0 else "/") if mark else target
    return target.partition("?")[0].partition("#")[0]


def is_own(target: str) -> bool:
    """Whether a target belongs to `/_sidecar/`, in any disguise: `//_sidecar/`, `%5fsidecar`, `/x/../_sidecar`, other case. All
    of these must be routed to the sidecar's own handlers, which know the plain spelling only; none is passed through."""
    path = path_of(target)
    if path == OWN or path.startswith(OWN + "/"):
        return True
    for _ in range(_DECODE_ROUNDS):
        path = unquote(path, errors="replace")
    parts: list[str] = []
    for part in path.replace("\\", "/").lower().split("/"):
        name = part.partition(";")[0].partition("?")[0].partition("#")[0].strip()
        if name == "..":
            del parts[-1:]
        elif name not in {"", "."}:
            parts.append(name)
    return parts[:1] == [OWN[1:]]


class Guard:
    """The checks, with the settings they need. `allowed_hosts`: names without port, besides loopback, the listen address and the
    socket's own IP; `allowed_origins`: exact; `local_token`: None or empty for none."""

    def __init__(
        self,
        listen_host: str = "127.0.0.1",
        allowed_hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
        local_token: str | None = None,
    ) -> None:
        self._hosts = frozenset(map(canonical_host, ("localhost", listen_host, *allowed_hosts)))
        self._origins = frozenset(allowed_origins)
        self._token = local_token.encode() if local_token else None

    def check(
        self, hosts: Sequence[str], origins: Sequence[str], local_ip: str | None, target: str, authorizations: Sequence[str]
    ) -> Refusal | None:
        """Judge one request, WebSocket upgrades included: all values of its Host, Origin and Authorization fields, the local IP
        of its socket and its raw target. None: it may pass."""
        if len(hosts) != 1 or not self.accepts_host(hosts[0], local_ip):
            return _forbidden("this Host is not served here; SIDECAR_ALLOWED_HOSTS lists the ones accepted besides loopback")
        if not target.startswith("/") and "://" in target:
            # RFC 9112 section 3.2.2: the authority of an absolute target wins over Host, so both must be one.
            authority = re.split(r"[/?#]", target.partition("://")[2], maxsplit=1)[0]
            if authority.lower() != hosts[0].lower():
                return _forbidden("the request target names another host than Host; SIDECAR_ALLOWED_HOSTS does not change that")
        if len(origins) > 1 or (origins and not self.accepts_origin(origins[0], hosts[0])):
            return _forbidden("this Origin is not served here; SIDECAR_ALLOWED_ORIGINS lists the ones accepted")
        if is_own(target) and path_of(target) not in HEALTH and not self._knows(authorizations):
            challenge = ("WWW-Authenticate", 'Bearer realm="sidecar"')
            return Refusal(401, (challenge,), "this needs `Authorization: Bearer` with SIDECAR_LOCAL_TOKEN\n")
        return None

    def accepts_host(self, value: str, local_ip: str | None) -> bool:
        """Whether a Host value (with or without port) is one of ours. Any loopback address counts: only a *name* can be rebound."""
        split = split_host(value)
        if split is None:
            return False
        name = split[0]
        if name in self._hosts or (local_ip is not None and name == canonical_host(local_ip)):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    def accepts_origin(self, origin: str, host: str) -> bool:
        """Whether an Origin is the sidecar's own, that is the request's (accepted) Host, or listed."""
        return origin in self._origins or names_host(origin, host)

    def inspect(self, request: web.BaseRequest) -> Refusal | None:
        """check() for an aiohttp request. Headers are read raw, so that nothing merges duplicates."""
        fields: dict[bytes, list[str]] = {b"host": [], b"origin": [], b"authorization": []}
        for name, value in request.raw_headers:
            if (low := name.lower()) in fields:
                fields[low].append(value.decode("latin-1"))
        transport = request.transport
        local = transport.get_extra_info("sockname") if transport is not None else None
        local_ip = local[0] if isinstance(local, tuple) else None
        return self.check(fields[b"host"], fields[b"origin"], local_ip, request.raw_path, fields[b"authorization"])

    def middleware(self) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
        """The outermost middleware of an aiohttp Application."""

        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            refusal = self.inspect(request)
            return await handler(request) if refusal is None else refusal_response(refusal)

        return guarded

    def _knows(self, authorizations: Sequence[str]) -> bool:
        if self._token is None:
            return True
        if len(authorizations) != 1:
            return False
        scheme, _, token = authorizations[0].partition(" ")
        given = token.strip().encode("latin-1", "replace")
        return scheme.lower() == "bearer" and hmac.compare_digest(given, self._token)


def refusal_response(refusal: Refusal) -> web.Response:
    """The refusal as an aiohttp response; the connection is closed behind it."""
    response = web.Response(status=refusal.status, text=refusal.text, headers=dict(refusal.headers))
    response.force_close()
    return response


def _forbidden(text: str) -> Refusal:
    return Refusal(403, (), text + "\n")
