"""``destseg doctor``: what can run models here, and whether all of it says the same."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING

from destseg.cli.flags import command_parser
from destseg.errors import DestsegError, SettingsError

if TYPE_CHECKING:
    from rich.table import Table

    from destseg.inference.bundle import Bundle
    from destseg.inference.parity import Comparison
    from destseg.inference.predictor import ImageLike, Predictor

DESCRIPTION = """Say which runtimes this machine has, and whether they all give the same results.

Without BUNDLE: versions, devices and threads of every runtime, and what to install for those that
are missing.  With BUNDLE: every runtime that is installed and that the model was exported for
inspects the same images; the largest differences from the first one are shown, and whether any
decision differs.  The exit code is 1 if the maps of an fp32 runtime differ by more than
--tolerance, if one decides differently, or if one cannot run.  Where both scores lie within
0.0001 of the threshold, a different decision is rounding: it is named, and is no fault.  INT8 has
scores and a threshold of its own: it is shown, not judged.
"""

EPILOG = """examples:
  destseg doctor
  destseg doctor runs/bottle
  destseg doctor runs/bottle --data incoming
"""

EXAMPLES = 8


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    from destseg.inference.calibration import TOLERANCE

    parser = command_parser("doctor", DESCRIPTION, EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", nargs="?", help="folder of a trained model")
    parser.add_argument(
        "--data",
        metavar="IMAGES",
        help=f"folder, list or image to compare on (default: {EXAMPLES} made-up images)",
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
    if parsed.limit < 1:
        raise SettingsError(f"--limit: expected at least 1, got {parsed.limit}")
    if not parsed.tolerance >= 0:
        raise SettingsError(f"--tolerance: expected at least 0, got {parsed.tolerance}")

    from rich.console import Console

    console = Console()
    print(
        f"destseg {metadata.version('destseg')}, Python {platform.python_version()}, "
        f"{platform.platform()}, {os.cpu_count()} CPU threads"
    )
    console.print(runtimes_table())
    if parsed.bundle is None:
        return 0

    from destseg.inference.bundle import load_bundle
    from destseg.inference.parity import compare_backends

    bundle = load_bundle(parsed.bundle)
    predictors, failed = open_all(bundle, parsed.threads)
    for name, error in failed.items():
        print(f"destseg: {name} cannot run: {error}", file=sys.stderr)
    if not predictors:
        return 1
    comparisons = compare_backends(predictors, _images(parsed.data, parsed.limit, bundle))
    console.print(comparison_table(comparisons, parsed.tolerance))
    for each in comparisons:
        pair = f"{each.backend} and {comparisons[0].backend} decide differently"
        for image in each.decisions:
            print(f"{pair}: {image}")
        for image in each.borderline:
            print(f"{pair} within {TOLERANCE:g} of the threshold, which is rounding: {image}")
    return 1 if failed or any(_is_off(each, parsed.tolerance) for each in comparisons) else 0


def open_all(
    bundle: Bundle, threads: int | None
) -> tuple[dict[str, Predictor], dict[str, DestsegError]]:
    """Open every backend that is installed and that the bundle has; give also those that failed."""
    from destseg.inference.backends import installed
    from destseg.inference.exports import find_exports
    from destseg.inference.predictor import load

    predictors, failed = {}, {}
    for name in ("torch", *find_exports(bundle)):
        if not installed(name):
            continue
        try:
            predictors[name] = load(
                bundle.folder, backend=name, device="cpu", threads=threads, batch_size=1
            )
        except DestsegError as error:
            failed[name] = error
    return predictors, failed


def runtimes_table() -> Table:
    """Return a row a runtime: version, devices, or how to install it."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    from destseg.inference.backends import EXTRAS, PACKAGES, devices, installed

    table = Table(box=SIMPLE_HEAD)
    for column in ("runtime", "version", "devices and threads"):
        table.add_column(column)
    for backend, package in PACKAGES.items():
        if installed(backend):
            table.add_row(backend, metadata.version(package), ", ".join(devices(backend)))
        else:
            table.add_row(backend, "-", escape(f"pip install 'destseg[{EXTRAS[backend]}]'"))
    for extra, package, purpose in (
        ("export", "onnxscript", "destseg export"),
        ("export", "nncf", "destseg quantize"),
    ):
        try:
            table.add_row(purpose, f"{package} {metadata.version(package)}", "")
        except metadata.PackageNotFoundError:
            table.add_row(purpose, "-", escape(f"pip install 'destseg[{extra}]'"))
    return table


def comparison_table(comparisons: list[Comparison], tolerance: float) -> Table:
    """Return a row a backend: its differences from the first, and the verdict."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    first = comparisons[0].backend
    table = Table(
        title=f"largest differences from {first}, same images",
        box=SIMPLE_HEAD,
        title_justify="left",
    )
    for column in ("backend", "map", "score", "flipped", "to threshold", "ms"):
        table.add_column(
            column, justify="left" if column == "backend" else "right", no_wrap=column == "backend"
        )
    table.add_column("verdict", no_wrap=True)
    for each in comparisons:
        if each.backend.endswith("-int8"):
            verdict = "own scores"
        else:
            verdict = "differs" if _is_off(each, tolerance) else "same"
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


def _is_off(each: Comparison, tolerance: float) -> bool:
    # NaN is no number that a tolerance admits.
    close = each.map_difference <= tolerance and not each.decisions
    return not close and not each.backend.endswith("-int8")


def _images(data: str | None, limit: int, bundle: Bundle) -> list[ImageLike]:
    from destseg.data.choice import evenly
    from destseg.data.samples import find_images
    from destseg.inference.parity import example_images

    if data is None:
        return list(example_images(EXAMPLES, bundle.settings.data.image_size))
    # Spread over the folder: its first images are often all of one kind.
    return [*evenly(find_images(data), limit)]
