"""``destseg doctor``: what can run models here, and whether all of it says the same."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING

import destseg
from destseg.cli.flags import command_parser
from destseg.data.lists import counted
from destseg.errors import SettingsError, install_line

if TYPE_CHECKING:
    from rich.table import Table

    from destseg.inference.parity import Parity

DESCRIPTION = """Say which runtimes this machine has, and whether they all give the same results.

Without BUNDLE: versions, devices and threads of every runtime, and what to install for those that
are missing.  With BUNDLE: every runtime that is installed and that the model was exported for
inspects the same images; the largest differences from the first one are shown, and whether any
decision differs.  The exit code is 1 if the maps of an fp32 runtime differ by more than
--tolerance, if one decides differently, if one cannot run, or if an image cannot be read: the
others are compared.  Where both scores lie within 0.0001 of the threshold, a different decision is
rounding: it is named, and is no fault.  INT8 has scores and a threshold of its own: it is shown,
not judged.
"""

EPILOG = """examples:
  destseg doctor
  destseg doctor runs/bottle
  destseg doctor runs/bottle --data incoming
"""


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    from destseg.inference.calibration import TOLERANCE

    parser = command_parser("doctor", DESCRIPTION, EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", nargs="?", help="folder of a trained model")
    parser.add_argument(
        "--data",
        metavar="IMAGES",
        help="folder, list or image to compare on (default: 8 made-up images)",
    )
    parser.add_argument(
        "--limit", type=int, default=32, metavar="N", help="images at most (default: 32)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="X",
        help="largest difference of map values that is rounding (default: 0.0001)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of each runtime")
    parsed = parser.parse_args(words)
    if not parsed.tolerance >= 0:
        raise SettingsError(f"--tolerance: expected at least 0, got {parsed.tolerance}")

    from rich.console import Console

    console = Console()
    print(
        f"destseg {destseg.__version__}, Python {platform.python_version()}, "
        f"{platform.platform()}, {os.cpu_count()} CPU threads"
    )
    table, lacking = runtimes_table()
    console.print(table)
    # Not in the table, which would break a line that somebody copies.
    for extra, names in lacking.items():
        print(f"{' and '.join(names)}: {install_line(extra)}")
    if parsed.bundle is None:
        return 0

    parity = destseg.compare(parsed.bundle, parsed.data, limit=parsed.limit, threads=parsed.threads)
    for name, error in parity.failed.items():
        print(f"destseg: {name} cannot run: {error}", file=sys.stderr)
    if not parity.comparisons:
        return 1
    for left_out in parity.unreadable:
        print(f"destseg: {left_out}", file=sys.stderr)
    console.print(comparison_table(parity, parsed.tolerance))
    for each in parity.comparisons:
        pair = f"{each.backend} and {parity.comparisons[0].backend} decide differently"
        for image in each.decisions:
            print(f"{pair}: {image}")
        for image in each.borderline:
            print(f"{pair} within {TOLERANCE:g} of the threshold, which is rounding: {image}")
    return 0 if parity.agrees(parsed.tolerance) and not parity.unreadable else 1


def runtimes_table() -> tuple[Table, dict[str, list[str]]]:
    """Return a row a runtime with version and devices, and by extra what is not installed."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from destseg.inference.backends import EXTRAS, PACKAGES, devices, installed

    table = Table(box=SIMPLE_HEAD)
    lacking: dict[str, list[str]] = {}
    for column in ("runtime", "version", "devices and threads"):
        table.add_column(column)
    for backend, package in PACKAGES.items():
        if installed(backend):
            table.add_row(backend, metadata.version(package), ", ".join(devices(backend)))
        else:
            table.add_row(backend, "-", "not installed")
            lacking.setdefault(EXTRAS[backend], []).append(backend)
    for extra, package, purpose in (
        ("export", "onnxscript", "destseg export"),
        ("export", "nncf", "destseg quantize"),
    ):
        try:
            table.add_row(purpose, f"{package} {metadata.version(package)}", "")
        except metadata.PackageNotFoundError:
            table.add_row(purpose, "-", f"{package} is not installed")
            lacking.setdefault(extra, []).append(purpose)
    return table, lacking


def comparison_table(parity: Parity, tolerance: float) -> Table:
    """Return a row a backend: its differences from the first, and the verdict."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    first = parity.comparisons[0].backend
    table = Table(
        title=f"largest differences from {first} on {counted(parity.images, 'image')}",
        box=SIMPLE_HEAD,
        title_justify="left",
    )
    for column in ("backend", "map", "score", "flipped", "to threshold", "ms"):
        table.add_column(
            column, justify="left" if column == "backend" else "right", no_wrap=column == "backend"
        )
    table.add_column("verdict", no_wrap=True)
    for each in parity.comparisons:
        if each.backend.endswith("-int8"):
            verdict = "own scores"
        else:
            verdict = "same" if each.agrees(tolerance) else "differs"
        table.add_row(
            each.backend,
            f"{each.map_difference:.1e}",
            f"{each.score_difference:.1e}",
            str(len(each.decisions)),
            f"{each.nearest:.1e}",
            f"{1e3 * each.seconds:.1f}",
            "reference" if each.backend == first else verdict,
        )
    return table
