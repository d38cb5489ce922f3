"""``destseg COMMAND``: finds the command, runs it, turns errors into messages and exit codes."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

import destseg
from destseg.errors import DestsegError, TrainingInterrupted
from destseg.interruption import Interruption
from destseg.redaction import without_secrets

COMMANDS = {
    "demo": "train and inspect made-up parts, to see the whole path in minutes",
    "train": "learn from a folder of good images",
    "train-many": "train a model for each of many categories, on one machine or a Ray cluster",
    "predict": "say how anomalous images are, where, and whether they are defective",
    "serve": "answer images over HTTP, with a page to try it",
    "watch": "inspect images as they arrive in a folder",
    "drift": "say whether good parts have begun to look different",
    "batch": "inspect very many images on one machine or a Ray cluster",
    "evaluate": "measure a model on images whose defects are known",
    "report": "write one HTML file that shows what a model does on labelled images",
    "qualify": "say how small a defect a model finds, in a report to sign",
    "export": "write a model as ONNX or OpenVINO, for machines without PyTorch",
    "quantize": "write a model in INT8, if it stays accurate enough",
    "calibrate": "fit the threshold anew on new good images",
    "doctor": "compare all that can run a model, on the same images",
    "preview": "draw good images beside their synthetic anomalies, to look at before training",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 is success, 1 work that failed in whole or in part, 2 arguments that make no sense, 3 an
    alarm of ``drift``, and 128 + n the end by signal n.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"destseg {destseg.__version__}")
        return 0
    if words[0] not in COMMANDS:
        expected = ", ".join(COMMANDS)
        print(f"destseg: expected a command ({expected}), got {words[0]!r}", file=sys.stderr)
        return 2
    with _printable(sys.stdout), _printable(sys.stderr):
        return _told(words[0], words[1:])


def _told(command: str, words: list[str]) -> int:
    """Run a command, say what went wrong, and return the exit code."""
    speaker = _speaker()
    warnings = logging.StreamHandler()
    warnings.setFormatter(logging.Formatter(f"{speaker}: %(message)s"))
    logger = logging.getLogger("destseg")
    logger.addHandler(warnings)
    try:
        return _run(command, words)
    except TrainingInterrupted as stop:
        print(f"{speaker}: {stop}", file=sys.stderr)
        return 128 + stop.signal_number
    except DestsegError as error:
        print(f"{speaker}: error: {error}", file=sys.stderr)
        return error.exit_code
    except _Stopped as stop:
        print(f"{speaker}: {stop}", file=sys.stderr)
        return 128 + stop.number
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe went away, as `head` does: nothing is wrong, nothing can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"{speaker}: error: {without_secrets(str(error))}", file=sys.stderr)
        return 1
    finally:
        logger.removeHandler(warnings)


@contextlib.contextmanager
def _printable(stream: TextIO) -> Iterator[None]:
    """Let a stream write names that its encoding does not have: see ``data.paths``."""
    if not isinstance(stream, io.TextIOWrapper) or stream.errors != "strict":
        yield
        return
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        # It was closed, or its reader went away, which is told where it was written to.
        with contextlib.suppress(ValueError, OSError):
            stream.reconfigure(errors="strict")


class _Stopped(Exception):  # noqa: N818 - an interruption, not a fault
    """A signal ended a command that was not at a place where it would say so itself."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def _run(command: str, words: list[str]) -> int:
    interruption = Interruption()
    try:
        with interruption.end():
            module = importlib.import_module(f"destseg.cli.{command.replace('-', '_')}")
            code: int = module.run(words)
            sys.stdout.flush()  # here, where a reader that went away is not a trace
    except BaseException as error:
        # Whatever it is: a library may have made an error of its own of it.
        if interruption.signal is not None:
            raise _Stopped(interruption.signal) from None
        if isinstance(error, SystemExit):  # argparse: 0 after --help, 2 after a wrong flag
            return error.code if isinstance(error.code, int) else 2
        raise
    return code


def _speaker() -> str:
    """Return who speaks: of several processes that train together, which one."""
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    return f"destseg (process {os.environ.get('RANK', '0')})" if several else "destseg"


def _usage() -> str:
    listed = "\n".join(f"  {name:<12}{what}" for name, what in COMMANDS.items())
    return (
        "usage: destseg COMMAND ...\n\n"
        "Finds surface defects in images of parts after learning from good parts only.\n\n"
        f"commands:\n{listed}\n\n"
        "destseg COMMAND --help tells a command's arguments; destseg --version the version."
    )


if __name__ == "__main__":
    sys.exit(main())
