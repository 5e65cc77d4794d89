"""Connections to the upstream: name resolution, proxies and private CAs of the machine, verified TLS.

`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` (either case) are read when a Dialer is made; `SSL_CERT_FILE` and
`SSL_CERT_DIR` by OpenSSL when the first TLS connection is. Nothing here retries.
"""

import asyncio
import base64
import socket
import ssl
from typing import Final, NamedTuple
from urllib.parse import unquote
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import aiohappyeyeballs  # comes with aiohttp, which needs it for the same

from sidecar.errors import UpstreamAway
from sidecar.upstream.wire import Header, Origin, WireError, head_bytes, parse_status, split_url

BUFFER: Final = 65536
"""Bytes after which a reader asks its transport to pause (asyncio lets twice as much accumulate)."""
_EYEBALLS_DELAY_S: Final = 0.25


class PatientReader(asyncio.StreamReader):
    """A reader that hands out what had arrived before a reset: an upstream that refuses a large upload answers and then resets.
    `lost` is why the connection ended, None for a proper end."""

    lost: Exception | None = None

    def set_exception(self, exc: Exception) -> None:
        self.lost = exc
        self.feed_eof()


class Connection(NamedTuple):
    """An open connection. `absolute`: it leads to an HTTP proxy that wants the absolute URL as the target and `proxy_headers`
    with the request."""

    reader: PatientReader
    writer: asyncio.StreamWriter
    absolute: bool = False
    proxy_headers: tuple[Header, ...] = ()


class Dialer:
    """Opens connections. `connect_timeout`: seconds for all of it: name, TCP, proxy and TLS handshake."""

    def __init__(self, *, connect_timeout: float = 5.0, tls: ssl.SSLContext | None = None) -> None:
        self._timeout = connect_timeout
        self._tls = tls
        self._proxies = getproxies_environment()

    def tls(self) -> ssl.SSLContext:
        """The context for upstream TLS: certificate and name verified, CAs of the machine (SSL_CERT_FILE honoured)."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    def proxy_for(self, origin: Origin) -> str | None:
        """URL of the proxy that the environment prescribes for an upstream, None for a direct connection."""
        proxy = self._proxies.get(origin.scheme) or self._proxies.get("all")
        if not proxy or proxy_bypass_environment(f"{origin.host}:{origin.port}", self._proxies):
            return None
        return proxy if "://" in proxy else "http://" + proxy

    async def connect(self, origin: Origin, *, socket_like: bool = False) -> Connection:
        """Open a fresh connection. `socket_like`: it will be upgraded, so that a proxy has to be tunnelled through even for
        plain http. Raises UpstreamAway; nothing was sent to the upstream then."""
        try:
            async with asyncio.timeout(self._timeout):
                proxy = self.proxy_for(origin)
                if proxy is None:
                    return await self._open(origin)
                return await self._open_by_proxy(origin, proxy, tunnel=socket_like or origin.scheme == "https")
        except TimeoutError:
            reason = f"no connection within {self._timeout:g} s"
        except ssl.SSLCertVerificationError as error:
            reason = f"its TLS certificate is not trusted: {error.verify_message}"
        except OSError as error:
            reason = error.strerror or type(error).__name__
        except ValueError as error:
            reason = str(error)
        raise UpstreamAway(f"cannot connect to {origin.authority}: {reason}") from None

    async def _open(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        sock = await aiohappyeyeballs.start_connection(infos, happy_eyeballs_delay=_EYEBALLS_DELAY_S, interleave=1, loop=loop)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        secure = origin.scheme == "https"
        reader = PatientReader(limit=BUFFER)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.create_connection(
            lambda: protocol,
            sock=sock,
            ssl=self.tls() if secure else None,
            server_hostname=origin.host if secure else None,
        )
        return Connection(reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def _open_by_proxy(self, origin: Origin, proxy: str, *, tunnel: bool) -> Connection:
        try:
            where, _ = split_url(proxy)
        except ValueError:
            raise OSError(0, "the proxy in the environment is not an http(s) URL") from None
        credentials = proxy.partition("://")[2].partition("/")[0].rpartition("@")[0]
        auth: tuple[Header, ...] = ()
        if credentials:
            coded = base64.b64encode(unquote(credentials).encode()).decode()
            auth = (("Proxy-Authorization", "Basic " + coded),)
        try:
            link = await self._open(where)
        except ssl.SSLError:
            raise
        except OSError as error:
            raise OSError(error.errno, f"proxy {where.authority}: {error.strerror or 'unreachable'}") from None
        if not tunnel:
            return link._replace(absolute=True, proxy_headers=auth)
        try:
            return await self._through(link, origin, auth)
        except BaseException:
            link.writer.transport.abort()
            raise

    async def _through(self, link: Connection, origin: Origin, auth: tuple[Header, ...]) -> Connection:
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        target = f"{host}:{origin.port}"
        link.writer.write(head_bytes(f"CONNECT {target} HTTP/1.1", [("Host", target), *auth]))
        try:
            head = await link.reader.readuntil(b"\r\n\r\n")
            status = parse_status(head.partition(b"\r\n")[0])
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, WireError):
            raise OSError(0, "the proxy did not answer CONNECT") from None
        if not 200 <= status.code < 300:
            raise OSError(0, f"the proxy refused with {status.code}")
        if origin.scheme != "https":
            return link
        await link.writer.start_tls(self.tls(), server_hostname=origin.host)
        return link
