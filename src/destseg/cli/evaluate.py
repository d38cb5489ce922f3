"""``destseg evaluate``: a model against labelled images."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from destseg.cli.flags import add_runtime_flags, command_parser, runtime_options
from destseg.errors import SettingsError, needs_extra
from destseg.model_folder import METRICS

if TYPE_CHECKING:
    from rich.table import Table

    from destseg.evaluation.evaluate import Evaluation
    from destseg.evaluation.outcomes import Rate, Record

DESCRIPTION = """Measure a model on images whose defects are known.

DATA is a folder in MVTec AD's layout: test/good, test/TYPE and masks in ground_truth/TYPE; or a CSV
with columns path, label (good, or the defect type) and perhaps mask, whose relative paths start at
its own folder.  Metrics of images and pixels are printed for the whole set and for each defect
type (with the good images), beside the decisions at the threshold with 95 % Wilson intervals.
Maps and masks are compared at the model's size.

Image metrics need no masks: they are of all images that can be read, pixel metrics of those that
are good or have a mask; both numbers are shown.  Images that cannot be read are left out and named,
and the exit code is 1.
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
    if parsed.by_image and Path(parsed.by_image).suffix not in (".csv", ".parquet"):
        raise SettingsError(f"--by-image: expected FILE.csv or FILE.parquet, got {parsed.by_image}")

    from rich.console import Console

    from destseg.cli.progress import counted
    from destseg.cli.writing import write_each
    from destseg.data.files import write_atomically
    from destseg.data.labelled import files_of, labelled_samples
    from destseg.data.outputs import require_files
    from destseg.evaluation.evaluate import evaluate
    from destseg.inference.bundle import own_files
    from destseg.inference.predictor import load

    samples = labelled_samples(parsed.data)
    output = Path(parsed.output or Path(parsed.bundle) / METRICS)
    rows = Path(parsed.by_image) if parsed.by_image else None
    read = [Path(parsed.data), *files_of(samples), *own_files(parsed.bundle)]
    require_files([output, rows] if rows else [output], read)
    if rows and rows.suffix == ".parquet":
        _parquet()
    predictor = load(parsed.bundle, **runtime_options(parsed))
    with counted(len(samples)) as advance:
        evaluation = evaluate(
            predictor, samples, exact=not parsed.bounded, on_image=lambda *_: advance()
        )
    figures = json.dumps(evaluation.to_json(), indent=1) + "\n"
    writes: dict[Path, Callable[[], object]] = {output: lambda: write_atomically(output, figures)}
    if rows:
        writes[rows] = lambda: write_records(rows, evaluation.records)
    written = write_each(writes)
    console = Console()
    for table in metrics_tables(evaluation):
        console.print(table)
    for line in decision_lines(evaluation):
        console.print(line, highlight=False)
    for path in written:
        console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)
    return max(told_failures(evaluation), int(len(written) < len(writes)))


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
    """Return what the threshold made of the images, in sentences."""
    return [
        f"threshold {evaluation.threshold:.4f}, fitted on calibration images to at most "
        f"{evaluation.guaranteed_false_alarm_rate:.1%} false alarms:",
        f"  false alarms {_rate(evaluation.false_alarms)}",
        f"  missed       {_rate(evaluation.misses)}",
        f"{evaluation.coverage}",
        f"{evaluation.coverage.images} images in {evaluation.seconds:.1f} s, reading and metrics "
        f"included: {evaluation.coverage.images / evaluation.seconds:.1f} a second",
    ]


def write_records(path: Path, records: tuple[Record, ...]) -> None:
    """Write a row an image: the fields of ``Record``, and its outcome; unknown ones are empty.

    Raises:
        MissingExtraError: for Parquet without pyarrow.
    """
    import csv
    import io

    from destseg.data.files import write_atomically
    from destseg.data.paths import shown

    rows: list[dict[str, Any]] = [{**vars(each), "outcome": each.outcome} for each in records]
    rows = [
        {name: shown(value) if isinstance(value, str) else value for name, value in row.items()}
        for row in rows
    ]
    if path.suffix == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(path, text.getvalue())
        return
    pyarrow = _parquet()
    content = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), content)
    write_atomically(path, content.getvalue().to_pybytes())


def _parquet() -> Any:
    with needs_extra("parquet", "--by-image FILE.parquet"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow


def _per_cent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _rate(rate: Rate) -> str:
    if not rate.total:
        return "not defined: there are no such images"
    low, high = rate.interval
    return (
        f"{rate.count} of {rate.total} = {rate.value:.1%} (95 % interval {low:.1%} to {high:.1%})"
    )
