"""``destseg preview``: look at the synthetic anomalies before training on it."""

from __future__ import annotations

import destseg
from destseg.cli.flags import (
    add_settings_flags,
    base_settings,
    command_parser,
    settings_options,
)

DESCRIPTION = """Draw good images as the networks see them, with a synthetic anomaly and its mask.

Look first whether a small defect could still be seen in the second column; if not, raise
--image-size or use --tile.  Then whether the anomalies lie on the part, are about as large as
defects can be, and whether --rotation suits the category.
"""

EPILOG = """examples:
  destseg preview parts/good --output preview.png
  destseg preview parts/good --defects parts/bad
  destseg preview parts/good --perlin-units pixels --perlin-scale 20 60 --anomaly-area 0.02 0.1
"""

GROUPS = ("data", "variation", "synthesis")


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    base = base_settings(words)
    usage = "destseg preview DATA [--output FILE] [flags]"
    parser = command_parser("preview", DESCRIPTION, EPILOG, usage)
    parser.add_argument("data", metavar="DATA", help="folder or list of good images")
    parser.add_argument(
        "--output",
        metavar="FILE",
        default="preview.png",
        help="image to write (default: preview.png)",
    )
    parser.add_argument(
        "--count", type=int, default=8, metavar="N", help="number of images (default: 8)"
    )
    parser.add_argument(
        "--defects",
        metavar="DIR",
        help="draw these known defects instead: in their images, and laid onto good ones",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed (default: 0)")
    add_settings_flags(parser, base, GROUPS)
    parsed = parser.parse_args(words)
    destseg.preview(
        parsed.data,
        parsed.output,
        count=parsed.count,
        defects=parsed.defects,
        seed=parsed.seed,
        settings=parsed.settings,
        preset=parsed.preset,
        **settings_options(parsed, GROUPS),
    )
    drawn = (
        "known defects, good images, the same with them"
        if parsed.defects
        else ("good images, as the networks see them, with anomalies")
    )
    print(f"{parsed.output}: {drawn}, and masks")
    return 0
