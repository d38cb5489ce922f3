"""``destseg report``: one HTML file that shows what a model does on labelled images."""

from __future__ import annotations

from pathlib import Path

import destseg
from destseg.cli.flags import add_runtime_flags, command_parser, runtime_options
from destseg.cli.writing import place_of
from destseg.model_folder import REPORT

DESCRIPTION = """Write one HTML file with all images, heatmaps, curves and a threshold to move.

DATA is a folder in MVTec AD's layout: test/good, test/TYPE and masks in ground_truth/TYPE; or a CSV
with columns path, label (good, or the defect type) and perhaps mask.  The file works without a
network; it holds small copies of the images.  It names images that cannot be read; the exit code
is then 1.
"""

EPILOG = """example:
  destseg report runs/bottle data/bottle --output report.html
"""


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    parser = command_parser("report", DESCRIPTION, EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of a trained model")
    parser.add_argument(
        "data", metavar="DATA", help="data set in MVTec AD's layout, or CSV of labels"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="HTML file (default: report.html in the bundle)"
    )
    add_runtime_flags(parser)
    parsed = parser.parse_args(words)

    from destseg.cli.evaluate import told_failures
    from destseg.cli.progress import progress_bar

    output = place_of(parsed.output, Path(parsed.bundle) / REPORT)
    with progress_bar() as show:
        evaluation = destseg.report(
            parsed.bundle, parsed.data, output, on_progress=show, **runtime_options(parsed)
        )
    print(output)
    return told_failures(evaluation)
