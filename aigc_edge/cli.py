"""`aigc-edge`: the command line. What a user can cause is one sentence on stderr and exit code 2, never a stack trace.

AIGC_EDGE_DEBUG=1 shows the stack trace all the same.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import errno
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from aigc_edge import __version__
from aigc_edge.commands import commands, extension_commands
from aigc_edge.commands.parser import FAILED, Parser
from aigc_edge.errors import AigcEdgeError, CalibrationWarning, ExtensionWarning

INTERRUPTED = 130
# Which extra brings a module that is not there (the rest comes with the package itself).
EXTRAS = {"torch": "train", "onnx": "train", "onnxscript": "train", "sklearn": "train", "safetensors": "train", "PIL": "train"}


def build_parser(command: str = "") -> argparse.ArgumentParser:
    """The parser of the whole command line; commands of other distributions are in it unless `command` is one of the own."""
    parser = Parser("aigc-edge", description="Compile, run and measure generative models on edge devices.")
    parser.epilog = "aigc-edge COMMAND --help explains a command. AIGC_EDGE_DEBUG=1 shows a stack trace with an error."
    parser.add_argument("--version", action="version", version=f"aigc-edge {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    known = commands()
    for name, each in (known if command in known else extension_commands() | known).items():
        sub = subparsers.add_parser(name, help=each.HELP, description=each.DESCRIPTION)
        each.configure(sub)
        sub.set_defaults(run=each.run)
    return parser


def explain(error: BaseException) -> str | None:
    """The sentence for an error that a user can cause and mend; None for any other error (a bug, which shows its stack trace)."""
    if isinstance(error, AigcEdgeError):
        return str(error)
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" to write {error.filename}" if error.filename else ""
            return f"no space left{where}: free some disk space or choose another place; nothing half-written was kept"
        if error.filename is not None and error.strerror:
            return f"{error.filename}: {error.strerror}: check the path and its permissions"
    if isinstance(error, MemoryError):
        return "not enough memory: ask for fewer or smaller samples at a time"
    if isinstance(error, ImportError) and "'_core'" in str(error):
        return "the native core of aigc-edge is missing: a checkout shadows the installed package here, or it was never installed"
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").split(".")[0]
        if module in EXTRAS:
            return f"this command needs {module}, which is not installed: pip install 'aigc-edge[{EXTRAS[module]}]'"
    return None


_formatwarning = warnings.formatwarning


def _warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> str:
    """A warning of this package is one sentence, without the line of code that it comes from; others are as Python shows them."""
    if issubclass(category, ExtensionWarning | CalibrationWarning):
        return f"aigc-edge: warning: {message}\n"
    return _formatwarning(message, category, *where, **more)


# What stands for characters of our texts on a terminal or in a file that has only ASCII; "?" for others.
_PLAIN = {"×": "x", "–": "-", "−": "-", "…": "...", "→": "->", "≤": "<=", "≥": ">=", "·": "*", "é": "e", "²": "^2"}


def _plain(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs: a plain spelling of what an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


def _open_streams() -> None:
    """Let all three standard streams exist, as in a daemon they may not, and take every character."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: a file that is opened later must not get this number
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free, this one
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
    codecs.register_error("aigc-edge-plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="aigc-edge-plain")


def _terminate(number: int, frame: object) -> None:
    raise SystemExit(128 + number)  # unwinds, so that nothing half-written stays


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0, 2 after a failure that was explained, 130 after Ctrl-C.

    SIGINT ends a command in the background too, where shells without job control start it with that signal ignored.
    """
    _open_streams()
    with contextlib.suppress(ValueError):  # not the main thread: the caller's own business
        signal.signal(signal.SIGTERM, _terminate)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as scripts start `aigc-edge train &`: kill -INT is to end it too
            signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.formatwarning = _warning
    debug = os.environ.get("AIGC_EDGE_DEBUG", "") not in ("", "0")
    try:
        words = sys.argv[1:] if argv is None else list(argv)
        arguments = build_parser(words[0] if words else "").parse_args(words)
        code = int(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as stop:
        more = f"; {stop}" if str(stop) else ""  # a command may say what is kept
        print(f"\naigc-edge: interrupted; nothing half-written was kept{more}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        sentence = explain(error)
        if sentence is None or debug:
            raise
        print(f"aigc-edge: {' '.join(sentence.split())}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
