"""The command line: `sidecar run`, `demo`, `check`, `status`, `journal`, `consumer`; the same as `python -m sidecar`.

Each command's module is imported when it is called, so that `sidecar --version` loads no server. An expected
failure (`SidecarError`) is told on stderr in two lines, what is wrong and the mend, and decides the exit code: 0 clean,
2 configuration or usage, 3 data directory in use, 1 anything else. Standard output holds the answer and nothing else.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from sidecar import __version__
from sidecar.config import load, load_access
from sidecar.errors import EXIT_CLEAN, EXIT_OTHER, SidecarError
from sidecar.logs import Redactor

_INTERRUPTED = 130  # what a shell expects after SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code. `argv`: without the program's name; default: the process's own."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _guarded(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output left (`sidecar journal tail | head`); nothing may be left to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OTHER
    return code


def _guarded(arguments: list[str]) -> int:
    """Runs the command; what goes wrong is told, and becomes the exit code."""
    # Those of the environment count whether or not it can be loaded; those of files are added once it is.
    secrets = [os.environ.get(name, "").strip() for name in ("SIDECAR_UPSTREAM_TOKEN", "SIDECAR_LOCAL_TOKEN")]
    try:
        return _run(arguments, secrets)
    except SidecarError as error:
        _tell(error, Redactor(secrets))
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except SystemExit as leaving:  # argparse: usage, --help, --version
        return leaving.code if isinstance(leaving.code, int) else EXIT_CLEAN
    except BrokenPipeError:
        raise
    except Exception:
        _tell_unexpected(Redactor(secrets))
        return EXIT_OTHER


def _run(arguments: list[str], secrets: list[str]) -> int:
    """Parses and calls; puts the secrets it comes to know into `secrets`."""
    if arguments[:1] == ["demo"]:  # it has options of its own
        return _call("sidecar.demo.demo", arguments[1:])
    options = _parser().parse_args(arguments or ["run"])
    if options.command == "status":
        access = load_access(os.environ)
        secrets.append(access.local_token or "")
        return _call("sidecar.ops.status_cli", access, options.json)
    settings = load(os.environ)
    secrets += settings.secrets()
    if options.command == "check":
        return _call("sidecar.ops.check", settings, os.environ)
    if options.command == "journal":
        return _call("sidecar.journal.inspect", settings, options.what, options)
    if options.command == "consumer":
        return _call("sidecar.ops.consumer_cli", settings, options.name, offset=options.offset, stream=options.stream)
    return _call("sidecar.app", settings)


def _call(module: str, *arguments: object, **named: object) -> int:
    """Imports a command's module and calls its `run`, which returns the exit code."""
    return int(import_module(module).run(*arguments, **named))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sidecar",
        description="Keeps an agent's message stream free of gaps and duplicates. Without a command: run.",
        epilog="Configured by SIDECAR_ environment variables: conf/sidecar.env lists them, `sidecar check` explains them.",
    )
    parser.add_argument("--version", action="version", version=f"sidecar {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run = commands.add_parser("run", help="run the proxy until SIGTERM or SIGINT")
    run.add_argument("--version", action="version", version=f"sidecar {__version__}")
    commands.add_parser("demo", help="an upstream, two agents and cut connections, on this machine; `demo --help`")
    commands.add_parser("check", help="validate the environment, show what is in effect, probe the upstream")
    status = commands.add_parser("status", help="streams, cursors, lag, gaps and consumers of the running sidecar")
    status.add_argument("--json", action="store_true", help="as the sidecar sends it")
    _journal(commands.add_parser("journal", help="look into the journal, also while the sidecar runs"))
    _consumer(commands.add_parser("consumer", help="move a consumer's cursor"))
    return parser


def _journal(parser: argparse.ArgumentParser) -> None:
    """`what` is ls, tail or verify; tail has `stream` (None: all), `lines` and `follow`; all have `json`."""
    what = parser.add_subparsers(dest="what", metavar="ls|tail|verify", required=True)
    listing = what.add_parser("ls", help="streams, offsets, sizes and consumers")
    tail = what.add_parser("tail", help="the newest records")
    tail.add_argument("--stream", metavar="NAME", help="one stream only")
    tail.add_argument("-n", "--lines", type=_natural, default=10, metavar="N", help="how many a stream (10)")
    tail.add_argument("-f", "--follow", action="store_true", help="go on with what comes, until interrupted")
    verify = what.add_parser("verify", help="read everything, and name what is damaged")
    for each in (listing, tail, verify):
        each.add_argument("--json", action="store_true", help="one JSON object a line")


def _consumer(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="reset", required=True)
    reset = actions.add_parser("reset", help="set a consumer to the head, or to an offset; it goes on after that one")
    reset.add_argument("name", metavar="NAME")
    target = reset.add_mutually_exclusive_group(required=True)
    target.add_argument("--head", dest="offset", action="store_const", const=None, help="to the newest event")
    target.add_argument("--offset", type=_natural, metavar="N", help="to offset N; 0: all that is kept comes again")
    reset.add_argument("--stream", metavar="NAME", help="the stream, where several have a consumer of that name")


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise argparse.ArgumentTypeError(f"not a whole number from 0 upwards: {text!r}")
    return int(text)


def _tell(error: SidecarError, redact: Redactor) -> None:
    sys.stdout.flush()  # in one file or terminal, the answer stands before what is wrong with it
    for text, mend in error.lines():
        print(redact(f"sidecar: error: {text}\n  mend: {mend}"), file=sys.stderr)


def _tell_unexpected(redact: Redactor) -> None:
    """A defect of ours: the trace is worth keeping, but it may quote anything."""
    print(redact(traceback.format_exc()), end="", file=sys.stderr)
    print("sidecar: error: this should not have happened\n  mend: report it with the lines above", file=sys.stderr)
