"""Reads declared variables from an environment: values, defaults, secret files, and what is unknown.

Collects every problem instead of stopping at the first. The tables of variables stand in `sidecar/config.py` and in the
dialects; this module knows only the rules that hold for all of them.
"""

import os
import re
import shlex
import stat
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, Final

from sidecar.dialects import registry
from sidecar.errors import Problem
from sidecar.variables import BadValue, Variable, quoted

PREFIX: Final = "SIDECAR_"
FILE: Final = "_FILE"
_INJECTED: Final = ("SIDECAR_SERVICE_", "SIDECAR_PORT")
_SERVICE_LINK: Final = re.compile(r"_SERVICE_(HOST|PORT)|_PORT(_\d+_(TCP|UDP|SCTP).*)?$")
_SECRET_FILE_MAX: Final = 65536


class Reader:
    """Reads variables from one environment and collects what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[Problem] = []

    def wrong(self, name: str, text: str, mend: str) -> None:
        self.problems.append(Problem(name, text, mend))

    def read(self, variable: Variable) -> Any:
        """The parsed value, the parsed default, or None: not set, or wrong, which is then among the problems."""
        text = self._text(variable)
        if text is None:
            if variable.default is None:
                if variable.required:
                    self.wrong(variable.name, "is not set", f"set it: {variable.meaning}")
                return None
            text = variable.default
        try:
            return variable.parse(text)
        except BadValue as bad:
            self.wrong(variable.name, bad.text, bad.mend)
            return None

    def _text(self, variable: Variable) -> str | None:
        # A secret keeps its blanks, so that a stray one is reported instead of silently cut.
        raw = self.environ.get(variable.name, "")
        text = raw if variable.secret and raw.strip() else raw.strip()
        if not variable.secret:
            return text or None
        path = self.environ.get(variable.name + FILE, "").strip()
        if text and path:
            self.wrong(variable.name + FILE, f"is set, and so is {variable.name}", "unset one of the two")
            return None
        return self._secret_file(variable.name + FILE, path) if path else (text or None)

    def _secret_file(self, name: str, path: str) -> str | None:
        """The file's text without its trailing newline. Besides its owner only its group may read it, and nobody else may write it."""
        shown = quoted(path, 200)
        try:
            # Not blocking: a named pipe without a writer must not hang the start.
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            self.wrong(name, f"names a file that cannot be read, {shown}: {error.strerror}", "name a file this user may read")
            return None
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                self.wrong(name, f"does not name a regular file: {shown}", "name a file that holds the token alone")
                return None
            # A group may read it: that is how Kubernetes hands a secret to a process that is not root (fsGroup).
            if status.st_mode & 0o027:
                mode = f"{stat.S_IMODE(status.st_mode):04o}"
                text = f"names a file that others may access, {shown} (mode {mode})"
                self.wrong(name, text, f"chmod 600 {shlex.quote(path)}")
                return None
            content = os.read(handle, _SECRET_FILE_MAX + 1)
        except OSError as error:
            self.wrong(name, f"names a file that cannot be read, {shown}: {error.strerror}", "name another file")
            return None
        finally:
            os.close(handle)
        text = content.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
        if not text.strip() or len(content) > _SECRET_FILE_MAX:
            what = "an empty file" if not text.strip() else "a file too large for a token"
            self.wrong(name, f"names {what}: {shown}", "name a file that holds the token alone, on one line")
            return None
        return text

    def unknown(self, known: Collection[str]) -> None:
        """Names each SIDECAR_ variable that is not among the known ones, with the nearest one that is."""
        for name in sorted(self.environ):
            if not name.startswith(PREFIX) or name.startswith(_INJECTED) or name in known:
                continue
            base = name.removesuffix(FILE)
            near = get_close_matches(name, sorted(known), n=1, cutoff=0.75)
            unbuilt = [d for d in registry.PLANNED if d not in registry.names() and name.startswith(registry.prefix(d))]
            if unbuilt:
                self.wrong(name, f"belongs to the dialect {unbuilt[0]}, which is not built yet", "unset it")
            elif _SERVICE_LINK.search(name):
                self.wrong(name, "is not known", "unset it; if Kubernetes injects it, set enableServiceLinks: false")
            elif base in known:
                self.wrong(name, f"is not known: {base} is not a secret", f"set {base} itself")
            elif near:
                self.wrong(name, "is not known", f"did you mean {near[0]}? Else unset it")
            else:
                self.wrong(name, "is not known", "unset it; conf/sidecar.env lists every variable")
