"""``destseg train``: from good images to a model."""

from __future__ import annotations

import argparse
from pathlib import Path

import destseg
from destseg.cli.flags import (
    add_settings_flags,
    base_settings,
    command_parser,
    settings_options,
)
from destseg.inference.ancestor import Ancestor
from destseg.model_folder import SETTINGS

DESCRIPTION = """Learn from images of good parts and save a model in a folder.

DATA is a folder in MVTec AD's layout (its train/good is used), any folder of good images, or a
list of them (.txt, or .csv with a column path).  The usual names of folders (OK/ NG/, normal/
abnormal/ mask/) are understood; what may not be good is refused.  Some of the images, the
calibration images, are not trained on and fit the threshold.  Nothing defective is needed; if
there are bad parts, --defects learns from them too.
"""

EPILOG = """examples:
  destseg train parts/good --output runs/parts
  destseg train parts/good --output runs/parts --textures dtd --rotation 10
  destseg train parts/good --output runs/parts --resume
  destseg train parts/good --output runs/parts-2 --from runs/parts --defects parts/bad
"""

MOST_USED = ("image_size", "rotation", "quarter_turns", "roi", "max_false_alarm_rate")
"""Settings that stand before all others in the help, beside ``--output``."""

OF_DEFECTS = ("cross_fit", "defect_fraction")
"""Settings that stand beside ``--defects``."""


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    scout = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    scout.add_argument("data", nargs="?", default="data")
    scout.add_argument("--output")
    scout.add_argument("--from", dest="ancestor")
    scout.add_argument("--resume", action="store_true")
    early, _ = scout.parse_known_args(words)
    # A resumed run goes on with the settings that it began with.
    earlier = Path(early.output) / SETTINGS if early.resume and early.output else None
    base = base_settings(words, earlier)
    given = any(word.partition("=")[0] in ("--settings", "--preset") for word in words)
    going_on = bool(early.ancestor) and not early.resume and not given
    if going_on:
        base = Ancestor.open(Path(early.ancestor)).settings

    parser = command_parser("train", DESCRIPTION, EPILOG, "destseg train DATA --output DIR [flags]")
    parser.add_argument("data", metavar="DATA", help="folder or list of good images")
    first = parser.add_argument_group("what most people need")
    first.add_argument("--output", metavar="DIR", required=True, help="folder for the model")
    bad = parser.add_argument_group("a few known defects, and going on from a model")
    bad.add_argument(
        "--defects",
        metavar="DIR",
        help="known defects to learn from as well: one folder a type, with masks in "
        "ground_truth/TYPE/, beside the images (1_mask.png) or drawn with labelme (1.json)",
    )
    bad.add_argument(
        "--from",
        dest="ancestor",
        metavar="BUNDLE",
        help="go on from this model with new defects or good images, heads only, in minutes",
    )
    bad.add_argument(
        "--accept-losses",
        action="store_true",
        help="with --from: keep the model even if it loses a defect that the other found",
    )
    section = parser.add_argument_group("the run")
    section.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    section.add_argument(
        "--overwrite", action="store_true", help="replace what an earlier run left in the folder"
    )
    section.add_argument("--quiet", action="store_true", help="print nothing but errors")
    placed = dict.fromkeys(MOST_USED, first) | dict.fromkeys(OF_DEFECTS, bad)
    add_settings_flags(parser, base, sources=section, first=placed)
    parsed = parser.parse_args(words)
    destseg.train(
        parsed.data,
        output=parsed.output,
        defects=parsed.defects,
        ancestor=parsed.ancestor,
        accept_losses=parsed.accept_losses,
        resume=parsed.resume,
        overwrite=parsed.overwrite,
        quiet=parsed.quiet,
        settings=base if going_on else parsed.settings,
        preset=parsed.preset,
        **settings_options(parsed),
    )
    return 0
