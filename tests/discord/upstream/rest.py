"""The REST side of the reference upstream: routes, rate limits with their headers, attachments. Pure, as the rest of the model."""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qsl, unquote

from tests.discord.upstream.faults import RestFault
from tests.discord.upstream.ledger import Call
from tests.discord.upstream.places import Channel, Guild, Payload
from tests.discord.upstream.session import dumps
from tests.discord.upstream.world import Bot, World

__all__ = ["Answer", "Rest"]

BASE = re.compile(r"/api(?:/v(?:9|10))?(?=/)")
ERRORS = {
    400: (50035, "Invalid Form Body"),
    401: (0, "401: Unauthorized"),
    403: (50001, "Missing Access"),
    404: (0, "404: Not Found"),
    405: (0, "405: Method Not Allowed"),
    429: (0, "You are being rate limited."),
    500: (0, "500: Internal Server Error"),
    502: (0, "502: Bad Gateway"),
    503: (0, "503: Service Unavailable"),
}
INVALID = (401, 403, 429)
BITRATE = 64


@dataclass
class Answer:
    """An answer; `delay_s` and `cut` ("before", "within") are the shell's to carry out."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: str = ""


class Refused(Exception):
    """An error answer: status, Discord's code, message."""

    def __init__(self, status: int, code: int | None = None, message: str = "") -> None:
        known = ERRORS.get(status, (0, f"{status}"))
        super().__init__(message or known[1])
        self.status = status
        self.body = {"message": message or known[1], "code": known[0] if code is None else code}


@dataclass(frozen=True)
class Asked:
    """A call as a handler sees it."""

    bot: Bot
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Payload:
        return _object(self.body)

    def number(self, name: str) -> int | None:
        """A snowflake of the query. Raises Refused(400)."""
        text = self.query.get(name)
        if text is None:
            return None
        if not text.isdigit():
            raise Refused(400)
        return int(text)


Handler = Callable[..., Any]


class Rest:
    """Answers REST calls on a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._buckets: dict[str, deque[float]] = {}
        self._all: deque[float] = deque()
        self._waits: dict[str, float] = {}
        """Until when a bucket's client was told to wait."""
        number = r"(\d+)"
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "/users/@me", self._me),
            ("GET", "/users/@me/guilds", self._my_guilds),
            ("POST", "/users/@me/channels", self._open_direct),
            ("GET", f"/users/{number}", self._user),
            ("GET", "/oauth2/applications/@me", self._application),
            ("GET", "/applications/@me", self._application),
            ("GET", f"/applications/{number}/emojis", lambda _, number: {"items": []}),
            ("GET", f"/applications/{number}(?:/guilds/{number})?/commands", lambda _, *numbers: []),
            ("PUT", f"/applications/{number}(?:/guilds/{number})?/commands", lambda _, *numbers: []),
            ("GET", "/soundboard-default-sounds", lambda _: []),
            ("GET", f"/guilds/{number}", self._guild),
            ("GET", f"/guilds/{number}/channels", self._channels),
            ("GET", f"/guilds/{number}/threads/active", self._threads),
            ("GET", f"/guilds/{number}/members/{number}", self._member),
            ("GET", f"/channels/{number}", self._channel),
            ("GET", f"/channels/{number}/messages", self._history),
            ("POST", f"/channels/{number}/messages", self._post),
            ("GET", f"/channels/{number}/messages/{number}", self._message),
            ("PATCH", f"/channels/{number}/messages/{number}", self._edit),
            ("DELETE", f"/channels/{number}/messages/{number}", self._delete),
            ("PUT", f"/channels/{number}/messages/{number}/reactions/([^/]+)/@me", self._react),
            ("DELETE", f"/channels/{number}/messages/{number}/reactions/([^/]+)/@me", self._unreact),
            ("POST", f"/channels/{number}/typing", self._typing),
            ("POST", f"/channels/{number}/attachments", self._upload_addresses),
            ("POST", f"/interactions/{number}/([^/]+)/callback", self._callback),
        ]
        self._routes = [(method, re.compile(path + "$"), handler) for method, path, handler in routes]

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Answer one request.

        Args:
            target: the raw request target, not decoded.
            headers: names in lower case.
        """
        raw_path, _, raw_query = target.partition("?")
        query = dict(parse_qsl(raw_query, keep_blank_values=True))
        base = BASE.match(raw_path)
        path = raw_path[base.end() :] if base else raw_path
        fault = self.world.faults.rest_fault(method, path + (f"?{raw_query}" if raw_query else ""))
        if base is None:
            answer = self._media(method, raw_path, body)
        else:
            answer = self._api(method, path, query, headers, body, fault)
        if fault is not None:
            answer.headers |= fault.headers
            answer.delay_s = fault.delay_s
            answer.cut = fault.cut
        if base and path in ("/gateway", "/gateway/bot"):
            answer.delay_s = max(answer.delay_s, self.world.faults.metadata_delay_s)
        call = Call(self.world.now(), method, path, query, dict(headers), body, answer.status, target)
        self.world.ledger.calls.append(call)
        if answer.status in INVALID:
            self.world.ledger.invalid_requests += 1
        return answer

    def _api(
        self, method: str, path: str, query: dict[str, str], headers: Mapping[str, str], body: bytes, fault: RestFault | None
    ) -> Answer:
        limits: dict[str, str] = {}
        try:
            if fault is not None and fault.status is not None:
                return self._json(fault.status, Refused(fault.status).body if fault.body is None else fault.body)
            if path in ("/gateway", "/gateway/bot") and self.world.faults.metadata_status:
                raise Refused(self.world.faults.metadata_status.popleft())
            if path == "/gateway" and method == "GET":
                return self._json(200, {"url": self.world.gateway_url})
            bot = self._authorized(headers)
            if path == "/gateway/bot" and method == "GET":
                return self._json(200, self._metadata(bot))
            known = False
            for verb, pattern, handler in self._routes:
                if (found := pattern.match(path)) is None:
                    continue
                known = True
                if verb != method:
                    continue
                limited = self._limit(bot, f"{verb} {pattern.pattern} {found[1] if found.groups() else ''}", limits)
                if limited is not None:
                    return limited
                result = handler(Asked(bot, query, headers, body), *found.groups())
                return Answer(204, headers=limits) if result is None else self._json(200, result, limits)
            raise Refused(405 if known else 404)
        except Refused as refused:
            more = {"Retry-After": "1"} if refused.status == 429 else {}
            body_of = refused.body | ({"retry_after": 1.0, "global": False} if refused.status == 429 else {})
            return self._json(refused.status, body_of, limits | more)

    def _json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> Answer:
        charset = "; charset=utf-8" if self.world.faults.rest_charset else ""
        return Answer(status, dumps(value).encode(), {"Content-Type": f"application/json{charset}", **(headers or {})})

    def _authorized(self, headers: Mapping[str, str]) -> Bot:
        kind, _, token = headers.get("authorization", "").partition(" ")
        bot = self.world.bot_of(token) if kind == "Bot" else None
        if bot is None:
            raise Refused(401)
        return bot

    def _limit(self, bot: Bot, bucket: str, headers: dict[str, str]) -> Answer | None:
        """Count a call in its bucket and in the global one; 429 when either is empty."""
        now, settings = self.world.now(), self.world.settings
        size, window = settings.rest_bucket
        key = f"{bot.user.id} {bucket}"
        if now < self._waits.get(key, 0.0) - 0.02:
            self.world.wrong(f"REST call before Retry-After was over: {bucket}")
        scope, calls, allowed, span = "user", self._buckets.setdefault(key, deque()), size, window
        for each, width in ((calls, window), (self._all, 1.0)):
            while each and each[0] <= now - width:
                each.popleft()
        if len(self._all) >= settings.rest_per_s:
            scope, calls, allowed, span = "global", self._all, settings.rest_per_s, 1.0
        after = calls[0] + span - now if calls else span
        headers |= {
            "X-RateLimit-Limit": str(allowed),
            "X-RateLimit-Remaining": str(max(0, allowed - len(calls) - 1)),
            "X-RateLimit-Reset": f"{now + after:.3f}",
            "X-RateLimit-Reset-After": f"{after:.3f}",
            "X-RateLimit-Bucket": f"{abs(hash(bucket)) % 16**16:016x}",
            "Via": "1.1 reference",
        }
        if len(calls) >= allowed:
            self._waits[key] = now + after
            told = {"message": "You are being rate limited.", "retry_after": round(after, 3), "global": scope == "global"}
            more = {"Retry-After": str(math.ceil(after)), "X-RateLimit-Scope": scope}
            return self._json(429, told, headers | more | ({"X-RateLimit-Global": "true"} if scope == "global" else {}))
        self._buckets[key].append(now)
        self._all.append(now)
        return None

    # -- routes

    def _metadata(self, bot: Bot) -> Payload:
        settings = self.world.settings
        start = {
            "total": settings.identify_total,
            "remaining": max(0, settings.identify_total - bot.used()),
            "reset_after": bot.reset_after_ms(),
            "max_concurrency": settings.max_concurrency,
        }
        return {"url": self.world.gateway_url, "shards": settings.shards, "session_start_limit": start}

    def _me(self, asked: Asked) -> Payload:
        return asked.bot.user.shape() | {"verified": True, "mfa_enabled": True, "email": None, "flags": 0, "bio": "", "locale": "en-US"}

    def _my_guilds(self, asked: Asked) -> list[Payload]:
        mine = (self.world.guilds[number] for number in sorted(asked.bot.guilds))
        return [{"id": str(g.id), "name": g.name, "icon": None, "owner": False, "permissions": "0", "features": []} for g in mine]

    def _open_direct(self, asked: Asked) -> Payload:
        user = self.world.users.get(int(asked.json().get("recipient_id", 0)))
        if user is None:
            raise Refused(400)
        mine = (c for c in self.world.channels.values() if c.owner is asked.bot.user and c.recipient is user)
        return (next(mine, None) or self.world.add_direct(asked.bot, user)).shape()

    def _user(self, asked: Asked, number: str) -> Payload:
        user = self.world.users.get(int(number))
        if user is None:
            raise Refused(404, 10013, "Unknown User")
        return user.shape()

    def _application(self, asked: Asked) -> Payload:
        return {
            "id": str(asked.bot.application_id),
            "name": asked.bot.user.name,
            "icon": None,
            "description": "",
            "summary": "",
            "type": None,
            "bot": asked.bot.user.shape(),
            "bot_public": True,
            "bot_require_code_grant": False,
            "verify_key": "0" * 64,
            "flags": 27828224,
            "hook": True,
            "rpc_origins": [],
            "owner": self.world.person.shape(),
            "team": None,
            "approximate_guild_count": len(asked.bot.guilds),
            "redirect_uris": [],
            "interactions_endpoint_url": None,
            "role_connections_verification_url": None,
        }

    def _guild(self, asked: Asked, number: str) -> Payload:
        return self._guild_of(asked, number).rest_shape()

    def _channels(self, asked: Asked, number: str) -> list[Payload]:
        return [channel.shape() for channel in self._guild_of(asked, number).plain()]

    def _threads(self, asked: Asked, number: str) -> Payload:
        return {"threads": [thread.shape() for thread in self._guild_of(asked, number).threads()], "members": []}

    def _member(self, asked: Asked, number: str, user: str) -> Payload:
        guild = self._guild_of(asked, number)
        found = next((member for member in guild.members if member.id == int(user)), None)
        if found is None:
            raise Refused(404, 10007, "Unknown Member")
        return guild.member(found)

    def _channel(self, asked: Asked, number: str) -> Payload:
        return self._channel_of(asked, number).shape()

    def _history(self, asked: Asked, number: str) -> list[Payload]:
        channel = self._channel_of(asked, number)
        limit = asked.number("limit")
        if limit is not None and not 1 <= limit <= 100:
            raise Refused(400)
        places = {name: asked.number(name) for name in ("after", "before", "around")}
        return channel.page(limit=50 if limit is None else limit, **places)

    def _post(self, asked: Asked, number: str) -> Payload:
        channel = self._channel_of(asked, number)
        told, files = _form(asked)
        shapes = [self._attachment(channel, name, kind, data) for name, kind, data in files]
        shapes += [self._uploaded(channel, each) for each in told.get("attachments") or [] if "uploaded_filename" in each]
        content = told.get("content") or ""
        if not isinstance(content, str) or len(content) > 2000:
            raise Refused(400)
        if not content and not shapes and not told.get("embeds") and not told.get("components"):
            raise Refused(400, 50006, "Cannot send an empty message")
        reply = told.get("message_reference")
        replied = channel.messages.get(int(reply["message_id"])) if isinstance(reply, dict) else None
        more = {"embeds": told.get("embeds") or []}
        return self.world.post(content, channel, asked.bot.user, nonce=told.get("nonce"), attachments=shapes, reply_to=replied, more=more)

    def _message(self, asked: Asked, number: str, message: str) -> Payload:
        found = self._channel_of(asked, number).messages.get(int(message))
        if found is None:
            raise Refused(404, 10008, "Unknown Message")
        return found

    def _edit(self, asked: Asked, number: str, message: str) -> Payload:
        return self.world.edit(self._message(asked, number, message), _form(asked)[0].get("content") or "")

    def _delete(self, asked: Asked, number: str, message: str) -> None:
        self.world.delete(self._message(asked, number, message))

    def _react(self, asked: Asked, number: str, message: str, emoji: str) -> None:
        self.world.react(self._message(asked, number, message), unquote(emoji), asked.bot.user)

    def _unreact(self, asked: Asked, number: str, message: str, emoji: str) -> None:
        self.world.react(self._message(asked, number, message), unquote(emoji), asked.bot.user, add=False)

    def _typing(self, asked: Asked, number: str) -> None:
        self.world.typing(self._channel_of(asked, number), asked.bot.user)

    def _upload_addresses(self, asked: Asked, number: str) -> Payload:
        channel = self._channel_of(asked, number)
        given = []
        for file in asked.json().get("files") or []:
            name = f"{self.world.ids.next()}/{file['filename']}"
            given.append({"id": file.get("id"), "upload_url": f"{self.world.settings.uploads}/upload/{name}", "upload_filename": name})
        assert channel is not None
        return {"attachments": given}

    def _callback(self, asked: Asked, number: str, token: str) -> None:
        if token != f"interaction-{number}":
            raise Refused(404, 10062, "Unknown interaction")

    # -- attachments

    def _attachment(self, channel: Channel, name: str, kind: str, data: bytes) -> Payload:
        number = self.world.ids.next()
        path = f"/attachments/{channel.id}/{number}/{name}"
        self.world.files[path] = (data, kind)
        address = f"{self.world.settings.media}{path}"
        proxy = address.replace("cdn.discordapp.com", "media.discordapp.net")
        return {"id": str(number), "filename": name, "size": len(data), "url": address, "proxy_url": proxy, "content_type": kind}

    def _uploaded(self, channel: Channel, told: Payload) -> Payload:
        found = self.world.files.get(f"/upload/{told['uploaded_filename']}")
        if found is None:
            raise Refused(400)
        return self._attachment(channel, told["filename"], found[1], found[0])

    def _media(self, method: str, path: str, body: bytes) -> Answer:
        """The media hosts, served here so that a test can point them here: GET /attachments/…, PUT /upload/…."""
        if method == "PUT" and path.startswith("/upload/"):
            self.world.files[path] = (body, "application/octet-stream")
            return Answer(200)
        if method in ("GET", "HEAD") and path in self.world.files:
            data, kind = self.world.files[path]
            return Answer(200, data, {"Content-Type": kind, "ETag": f'"{len(data)}"'})
        return self._json(404, Refused(404).body)

    # -- helpers

    def _guild_of(self, asked: Asked, number: str) -> Guild:
        guild = self.world.guilds.get(int(number))
        if guild is None or guild.id not in asked.bot.guilds:
            raise Refused(404, 10004, "Unknown Guild")
        return guild

    def _channel_of(self, asked: Asked, number: str) -> Channel:
        channel = self.world.channels.get(int(number))
        if channel is None:
            raise Refused(404, 10003, "Unknown Channel")
        theirs = channel.guild.id in asked.bot.guilds if channel.guild is not None else channel.owner is asked.bot.user
        if channel.denied or not theirs:
            raise Refused(403)
        return channel


def _object(body: bytes) -> Payload:
    try:
        value = json.loads(body or b"{}")
    except ValueError:
        raise Refused(400, 50109, "The request body contains invalid JSON.") from None
    if not isinstance(value, dict):
        raise Refused(400)
    return value


def _form(asked: Asked) -> tuple[Payload, list[tuple[str, str, bytes]]]:
    """JSON, or multipart with `payload_json` and files: the JSON, and (name, content type, bytes) of each file."""
    kind = asked.headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        return asked.json(), []
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + kind.encode("latin-1") + b"\r\n\r\n" + asked.body)
    told: Payload = {}
    files: list[tuple[str, str, bytes]] = []
    for part in message.iter_parts():
        data = part.get_payload(decode=True)
        assert isinstance(data, bytes)
        if part.get_param("name", header="content-disposition") == "payload_json":
            told = _object(data)
        elif name := part.get_filename():
            files.append((name, part.get_content_type(), data))
    return told, files
