"""``destseg evaluate``: a model against labelled images."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import destseg
from destseg.cli.flags import add_runtime_flags, command_parser, runtime_options
from destseg.cli.writing import finished, place_of, tell
from destseg.data.lists import counted
from destseg.model_folder import METRICS

if TYPE_CHECKING:
    from rich.table import Table

    from destseg.evaluation.evaluate import Evaluation
    from destseg.rate import Rate

DESCRIPTION = """Measure a model on images whose defects are known.

DATA is a folder in MVTec AD's layout: test/good, test/TYPE and masks in ground_truth/TYPE; or a CSV
with columns path, label (good, or the defect type) and perhaps mask, whose relative paths start at
its own folder.  Metrics of images and pixels are printed for the whole set and for each defect
type (with the good images), beside the decisions at the threshold with 95 % Wilson intervals.
Maps and masks are compared at the model's size.

Image metrics need no masks: they are of all images that can be read, pixel metrics of those that
are good or have a mask; both numbers are shown.  Images that cannot be read are left out and named,
and the exit code is 1.  Images that the model learned from, whatever they are called, are left out
and named too: figures of them would flatter.
"""

EPILOG = """examples:
  destseg evaluate runs/bottle data/bottle
  destseg evaluate runs/bottle data/bottle --by-image images.csv
  destseg evaluate runs/bottle labels.csv --output metrics.json
"""


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    parser = command_parser("evaluate", DESCRIPTION, EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of a trained model")
    parser.add_argument(
        "data", metavar="DATA", help="data set in MVTec AD's layout, or CSV of labels"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="JSON file (default: metrics.json in the bundle)"
    )
    parser.add_argument(
        "--by-image", metavar="FILE", help="also write a row an image, .csv or .parquet"
    )
    parser.add_argument(
        "--bounded",
        action="store_true",
        help="bounded memory for any number of images; pixel metrics within 0.0001",
    )
    add_runtime_flags(parser)
    parsed = parser.parse_args(words)

    from rich.console import Console

    from destseg.cli.progress import progress_bar

    output = place_of(parsed.output, Path(parsed.bundle) / METRICS)
    with progress_bar() as show:
        evaluation, not_written = finished(
            lambda: destseg.evaluate(
                parsed.bundle,
                parsed.data,
                output=output,
                by_image=parsed.by_image,
                exact=not parsed.bounded,
                on_progress=show,
                **runtime_options(parsed),
            )
        )
    tell(not_written)
    console = Console()
    for table in metrics_tables(evaluation):
        console.print(table)
    for line in decision_lines(evaluation):
        console.print(line, highlight=False)
    for path in filter(None, (output, parsed.by_image)):
        if Path(path) not in not_written:
            console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)
    return max(told_failures(evaluation), 1 if not_written else 0)


def told_failures(evaluation: Evaluation) -> int:
    """Print what could not be read to the standard error, and return the exit code."""
    for failed in evaluation.failures:
        print(f"destseg: {failed.path}: {failed.error}", file=sys.stderr)
    if not evaluation.failures:
        return 0
    count, given = len(evaluation.failures), evaluation.coverage.given
    print(
        f"destseg: of {count} of {given} images the image or its mask could not be read",
        file=sys.stderr,
    )
    return 1


def metrics_tables(evaluation: Evaluation) -> list[Table]:
    """Return the tables of images and of pixels: a row a defect type, then the whole set."""
    from rich.markup import escape

    flagged = sum(each.flagged.count for each in evaluation.defect_types)
    counts = [
        (each.defect_type, each.flagged.total, each.flagged.count)
        for each in evaluation.defect_types
    ]
    counts.append(("all", evaluation.coverage.images, flagged))
    image = [each.image for each in evaluation.defect_types] + [evaluation.image]
    pixel = [each.pixel for each in evaluation.defect_types] + [evaluation.pixel]
    images = _table("images", ["number", "flagged", "AUROC", "AP", "F1max"])
    masks = [each.coverage.with_mask for each in evaluation.defect_types]
    pixels = _table("pixels", ["number", "AUROC", "AP", "F1max", "AUPRO", "IAP", "IAP@90"])
    for (name, number, called), each in zip(counts, image, strict=True):
        figures = map(_per_cent, (each.auroc, each.ap, each.f1_max))
        images.add_row(escape(name), str(number), str(called), *figures)
    for (name, _, _), number, one in zip(counts, [*masks, sum(masks)], pixel, strict=True):
        values = (one.auroc, one.ap, one.f1_max, one.aupro, one.iap, one.iap_90)
        pixels.add_row(escape(name), str(number), *map(_per_cent, values))
    return [images, pixels]


def _table(what: str, columns: list[str]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = f"{what}, per cent; each defect type together with the good images"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("defect type", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def decision_lines(evaluation: Evaluation) -> list[str]:
    """Return what the threshold made of the images, in sentences.

    Which images these are was told before the first of them, as a warning.
    """
    told_for = f" {evaluation.guaranteed_for}" if evaluation.guaranteed_for else ""
    images = evaluation.coverage.images
    return [
        f"threshold {evaluation.threshold:.4f}, fitted on calibration images to at most "
        f"{evaluation.guaranteed_false_alarm_rate:.2%} false alarms{told_for}:",
        f"  false alarms {_rate(evaluation.false_alarms)}",
        f"  missed       {_rate(evaluation.misses)}",
        f"{evaluation.coverage}",
        f"{counted(images, 'image')} in {evaluation.seconds:.1f} s, reading and metrics "
        f"included: {images / evaluation.seconds:.1f} a second",
    ]


def _per_cent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _rate(rate: Rate) -> str:
    if not rate.total:
        return "not defined: there are no such images"
    low, high = rate.interval
    return (
        f"{rate.count} of {rate.total} = {rate.value:.1%} (95 % interval {low:.1%} to {high:.1%})"
    )
