"""``destseg drift``: whether the scores of good-looking images still come as they came."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import destseg
from destseg.cli.flags import add_runtime_flags, command_parser, runtime_options
from destseg.cli.writing import finished, tell
from destseg.data.lists import counted

if TYPE_CHECKING:
    from destseg.monitoring.check import DriftCheck

ALARM = 3
_RARE = 0.01  # chance of so many flagged images, below which it is told

DESCRIPTION = """Say whether good parts have begun to look different, by the scores of their images.

IMAGES are files, folders (searched to any depth), lists (.txt, .csv), or results, whose scores
are taken without running the model: the JSON lines (.jsonl) of `destseg predict` and `watch`, the
database (.db, .sqlite, .sqlite3) of `watch`, the folder of Parquet that `destseg batch` wrote.

Their order must be the order of time: arguments in the order given, lists and .jsonl files line
by line, databases in the order of inspection, folders by natural name (2.png before 10.png),
Parquet in the order of the batch's listing, which for a folder is that of natural names.  Give
every image once.  Results of another model or threshold are refused.

Images whose score is more than 0.0002 below the threshold are compared with the calibration
images and with one another.  A capital of 1 is bet on their scores having changed (a conformal
test martingale).  Without a change, the probability that it ever reaches 1 / A, with A from
--alarm-rate, is at most A, however many images come.  It does not see the other images, nor a
change that leaves the scores alone.
"""

EPILOG = """exit codes:
  0  no drift shown
  1  no drift shown, but some images could not be read; or none could be compared: all lie above
     the threshold or right below it, or there are none
  3  drift: the martingale has reached 1 / A, in this run or before (even if some images were
     unreadable, or FILE could not be written; it says so)
  Errors exit as in other commands: 1 for work that failed, 2 for arguments that make no sense.

examples:
  destseg drift runs/parts monday/ tuesday/
  destseg predict runs/parts incoming/ --output results.jsonl
  destseg drift runs/parts results.jsonl --state line1.json     # each day goes on from the last
  destseg drift runs/parts watched.db                           # what destseg watch recorded
"""


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    parsed = _parser().parse_args(words)

    from destseg.cli.progress import progress_bar

    with progress_bar() as show:
        check, not_written = finished(
            lambda: destseg.drift(
                parsed.bundle,
                parsed.images,
                state=parsed.state,
                output=parsed.output,
                alarm_rate=parsed.alarm_rate,
                seed=parsed.seed,
                on_progress=show,
                **runtime_options(parsed),
            )
        )
    for line in _summary(check):
        print(line)
    failed = check.failures
    for one in failed:
        print(f"destseg: {one.path}: {one.error}", file=sys.stderr)
    if failed:
        print(
            f"destseg: {len(failed)} of {len(check.answers)} images could not be read",
            file=sys.stderr,
        )
    tell(not_written)
    if check.is_alarm:
        return ALARM
    return 1 if failed or not_written or not check.compared else 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("drift", DESCRIPTION, EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of a trained model")
    parser.add_argument(
        "images",
        metavar="IMAGES",
        nargs="+",
        help="files, folders, lists, or results of predict, watch, batch, in the order of time",
    )
    parser.add_argument(
        "--state",
        metavar="FILE",
        help="JSON file to go on from and to write anew, made if there is none; it belongs to one "
        "model and threshold (default: begin at the calibration images, keep nothing)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="also write a JSON line an image: path, score, p_value (null where it is "
        "not compared) and martingale_log10, or path and error",
    )
    parser.add_argument(
        "--alarm-rate",
        type=float,
        default=0.01,
        metavar="A",
        help="highest chance of ever giving an alarm without a change (default: 0.01)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="of the random numbers that order equal scores (default: the state's, else 0)",
    )
    add_runtime_flags(parser)
    return parser


def _summary(check: DriftCheck) -> Iterator[str]:
    before, after, rate = check.before, check.after, check.alarm_rate
    compared = after.jumper.played
    run = f" ({len(check.steps)} in this run)" if before.images else ""
    at = f"after {_which(after.highest_at, check)}" if after.highest_at else "at the start"
    yield (
        f"images    {after.images}{run}, of which {compared} good-looking ones are compared, "
        f"first with {counted(len(after.scores) - compared, 'calibration image')}"
    )
    yield (
        f"martingale  {_power(after.jumper.log10_capital)} now; highest {_power(after.highest)}, "
        f"{at}; alarm at {1 / rate:.6g}"
    )
    room = ""
    if check.beyond > check.flagged:
        room = f", {check.beyond} above what good images alone ask for"
    yield (
        f"flagged     {check.flagged} of {len(check.steps)} in this run are above the threshold"
        f"{room}; of good parts at most {check.guaranteed_false_alarm_rate:.2%} are expected"
        + (f" ({check.guaranteed_for})" if check.guaranteed_for else "")
    )
    if check.chance_of_flagged is not None and check.chance_of_flagged < _RARE:
        yield (
            f"            so many by chance: {check.chance_of_flagged:.2g}. Look at them: if they "
            "are good, parts or light have changed; fit the threshold to them (destseg calibrate)"
        )
    yield _verdict(check)


def _verdict(check: DriftCheck) -> str:
    if not check.is_alarm:
        if check.compared:
            return "no drift shown"
        why = "none of them is clearly below the threshold" if check.steps else "there is no score"
        return f"nothing compared in this run: {why}, so this says nothing about drift"
    first = check.alarm_at
    when = "before this run" if first is None else f"after {_which(first, check)}"
    way = "higher" if check.after.highest_lean > 0 else "lower"
    return (
        f"DRIFT: the martingale reached {1 / check.alarm_rate:.6g} {when}; without a change the "
        f"chance of that is at most {check.alarm_rate:.6g}.\nScores have become {way} than before. "
        "Look at light, lens, camera and parts; when that is mended, begin a new state, and if the "
        "new look is to stay, train anew with images of it."
    )


def _which(number: int, check: DriftCheck) -> str:
    """Return an image's number, and its name where it is one of this run."""
    inside = number - check.before.images - 1
    seen = check.scored
    return f"image {number}" + (f" ({seen[inside].path})" if 0 <= inside < len(seen) else "")


def _power(log10: float) -> str:
    """Return a number from its decimal logarithm, which may be too large for a float."""
    return f"{10**log10:.3g}" if abs(log10) < 6 else f"10^{log10:.1f}"
