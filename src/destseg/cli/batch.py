"""``destseg batch``: stored images by the million, on one machine or a Ray cluster."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

import destseg
from destseg.cli.flags import add_runtime_flags, command_parser, runtime_options
from destseg.data.lists import counted
from destseg.redaction import without_secrets

if TYPE_CHECKING:
    from destseg.batch_inspection.values import BatchPlan

DESCRIPTION = """Inspect very many stored images, on this machine or on a Ray cluster.

SOURCE is a folder (searched to any depth), a glob, a list (.txt, .csv), or Parquet with the bytes
of images; a path, or a URI of any file system that Arrow or fsspec knows (s3://, gs://, abfs://,
hdfs://, ...).  The results are Parquet files in DIR, one for each partition, with the columns path,
partition, score, p_value, is_defective, threshold, width, height, regions, error and
weights_sha256.  An image that cannot be read is a row with its error; the others are inspected all
the same, and the exit code is 1.

After an interruption the same command goes on: finished partitions are not repeated, and every
image is in the results once.  Another listing, model or setting is refused.
"""

EPILOG = """examples:
  destseg batch runs/parts archive/ --output results/
  destseg batch runs/parts 's3://plant/2026/**/*.png' --output s3://plant/results --address auto
  destseg batch runs/parts images.parquet --path-column serial --output results/
"""


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    parsed = _parser().parse_args(words)

    from destseg.cli.progress import Pace

    pace = Pace()

    def on_plan(planned: BatchPlan) -> None:
        print(_plan_line(planned), file=sys.stderr)
        pace.begin(planned.job.images, planned.before.images)

    own = [
        *("batch_size", "actors", "cpus_per_actor", "gpus_per_actor", "address"),
        *("partition_size", "image_column", "path_column", "overwrite", "retry_failed"),
    ]
    try:
        with pace:
            counts = destseg.batch(
                parsed.bundle,
                parsed.source,
                parsed.output,
                on_plan=on_plan,
                on_progress=lambda done, _: pace.reach(done),
                **runtime_options(parsed),
                **{name: getattr(parsed, name) for name in own},
            )
    except KeyboardInterrupt:
        print(
            "destseg: finished partitions are kept, the same command goes on",
            file=sys.stderr,
        )
        raise
    print(
        f"{counted(counts.images, 'image')}: {counts.defective} defective, {counts.failed} could "
        f"not be read; {pace.done} in {pace.elapsed} now; written: {without_secrets(parsed.output)}"
    )
    if counts.failed:
        print(
            f"destseg: {counts.failed} of {counts.images} images could not be read; their rows "
            "have the error",
            file=sys.stderr,
        )
    return 1 if counts.failed and not parsed.allow_unreadable else 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("batch", DESCRIPTION, EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of a trained model")
    parser.add_argument("source", metavar="SOURCE", help="folder, glob, list or Parquet")
    parser.add_argument(
        "--output", metavar="DIR", required=True, help="folder or URI for the results"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="delete the results of another batch in DIR and begin anew",
    )
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="do finished partitions again that have images that could not be read",
    )
    parser.add_argument(
        "--allow-unreadable",
        action="store_true",
        help="exit with 0 also if images could not be read, for schedulers that try again",
    )
    parser.add_argument(
        "--partition-size",
        type=int,
        metavar="N",
        help="images of a partition, or least rows of one of Parquet, which has whole row "
        "groups (default: 16 to 1000 by the number of images)",
    )
    parser.add_argument(
        "--image-column", metavar="NAME", help="of Parquet (default: the one that has bytes)"
    )
    parser.add_argument("--path-column", metavar="NAME", help="of Parquet (default: FILE#ROW)")
    section = parser.add_argument_group("machines")
    section.add_argument(
        "--address",
        default=os.environ.get("RAY_ADDRESS"),
        metavar="ADDRESS",
        help="of a Ray cluster: auto or host:port (default: RAY_ADDRESS; without it Ray begins "
        "in this machine and ends with the command)",
    )
    section.add_argument(
        "--actors",
        type=int,
        metavar="N",
        help="processes with a model each (default: as many as the machines hold)",
    )
    for kind, default in (("cpus", 1), ("gpus", 0)):
        section.add_argument(
            f"--{kind}-per-actor",
            type=float,
            default=default,
            metavar="X",
            help=f"{kind.upper()[:-1]}s of each, also parts of one (default: {default})",
        )
    section.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="images at a time (default: 8)"
    )
    add_runtime_flags(parser)
    return parser


def _plan_line(planned: BatchPlan) -> str:
    job, before = planned.job, planned.before
    images, partitions = counted(job.images, "image"), counted(job.partitions, "partition")
    line = f"{images} in {partitions}, backend {job.backend}"
    if before.images:
        line += f"; finished: {job.partitions - planned.left}"
    return line
