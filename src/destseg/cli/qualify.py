"""``destseg qualify``: how small a defect a model finds, as a report to sign."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import destseg
from destseg.cli.flags import add_runtime_flags, command_parser, runtime_options
from destseg.cli.writing import finished, place_of, tell
from destseg.model_folder import QUALIFICATION

if TYPE_CHECKING:
    from destseg.qualification.qualification import Qualification

DESCRIPTION = """Say how small a defect a model finds, where it misses some, and what it bears.

GOOD are images of good parts that the model was not trained on, 30 or more.  Defects of six
families are drawn on them in many sizes and contrasts, and it is counted which of them the model's
threshold finds.  The report is one HTML file to read, print and sign; its numbers lie beside it as
JSON.  The same command gives the same report.

It takes some 5,000 inspections, fewer where limits are found early: at 20 images a second about
four minutes.  What is drawn is not what will happen: read "What it cannot know" in the report.
"""

EPILOG = """examples:
  destseg qualify runs/bottle new_good_parts --output report.html
  destseg qualify runs/bottle new_good_parts --mm-per-pixel 0.05
  destseg qualify runs/bottle new_good_parts --repeats same_parts_again
"""


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    parser = command_parser("qualify", DESCRIPTION, EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of a trained model")
    parser.add_argument("good", metavar="GOOD", help="folder or list of good images")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="HTML file, with a .json beside it (default: qualification.html in the bundle)",
    )
    parser.add_argument(
        "--mm-per-pixel", type=float, metavar="X", help="millimetres that a pixel shows"
    )
    parser.add_argument(
        "--sizes",
        type=float,
        nargs="+",
        metavar="X",
        help="sizes of drawn defects in pixels, rising (default: six, by the images)",
    )
    parser.add_argument(
        "--contrasts",
        type=float,
        nargs="+",
        default=[10, 20, 40, 80],
        metavar="X",
        help="their contrasts in grey levels of 255, rising (default: 10 20 40 80)",
    )
    parser.add_argument(
        "--trials",
        type=int,
        default=10,
        metavar="N",
        help="defects for each family, size and contrast (default: 10)",
    )
    parser.add_argument(
        "--images", type=int, default=60, metavar="N", help="good images at most (default: 60)"
    )
    parser.add_argument(
        "--repeats",
        metavar="DIR",
        help="real repeated shots: a folder a part, or in that a folder a condition",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of all that is random (default: 0)"
    )
    add_runtime_flags(parser)
    parsed = parser.parse_args(words)

    from destseg.cli.progress import Pace

    output = place_of(parsed.output, Path(parsed.bundle) / QUALIFICATION)
    with Pace() as pace:

        def show(done: int, total: int) -> None:
            if not pace.done:
                pace.begin(total)
            pace.reach(done)

        found, not_written = finished(
            lambda: destseg.qualify(
                parsed.bundle,
                parsed.good,
                output,
                mm_per_pixel=parsed.mm_per_pixel,
                sizes=parsed.sizes,
                contrasts=parsed.contrasts,
                trials=parsed.trials,
                images=parsed.images,
                repeats=parsed.repeats,
                seed=parsed.seed,
                on_progress=show,
                **runtime_options(parsed),
            )
        )
    tell(not_written)
    for line in told(found):
        print(line)
    for path in (output, output.with_suffix(".json")):
        if path not in not_written:
            print(f"written: {path}")
    for name, reason in found.failures:
        print(f"destseg: {name}: {reason}", file=sys.stderr)
    return 1 if found.failures or not_written else 0


def told(found: Qualification) -> list[str]:
    """Return the summary in sentences, and what a reader should know first."""
    from destseg.qualification.words import summary

    return [*summary(found.to_json()), *(f"note: {each}" for each in found.notes)]
