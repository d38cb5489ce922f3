"""``destseg drift``: whether the scores of good-looking images still come as they came."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from destseg.cli.flags import add_runtime_flags, command_parser, runtime_options
from destseg.errors import DataError, SettingsError

if TYPE_CHECKING:
    from destseg.inference.calibration import Calibration
    from destseg.monitoring.drift import Drift, Step
    from destseg.monitoring.recorded import Recorded

ALARM = 3

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

    from destseg.data.files import write_atomically
    from destseg.data.outputs import require_files
    from destseg.data.sources import source_images
    from destseg.inference.bundle import own_files
    from destseg.monitoring.drift import Drift, load_state, save_state
    from destseg.monitoring.martingale import alarm_level
    from destseg.monitoring.recorded import is_results

    alarm_level(parsed.alarm_rate)  # refuses a wrong rate before the work
    found = {
        # Of results the files: a batch leaves a folder.
        source: list(source.glob("*")) if is_results(source) else source_images(source)
        for source in map(Path, parsed.images)
    }
    read = [*found, *(path for paths in found.values() for path in paths)]
    outputs = [Path(path) for path in (parsed.output, parsed.state) if path]
    require_files(outputs, [*read, *own_files(parsed.bundle)])
    calibration, answers = _answers(parsed, found)
    if parsed.state and Path(parsed.state).exists():
        before = load_state(parsed.state, calibration)
        if parsed.seed not in (None, before.seed):
            raise SettingsError(
                f"--seed: expected {before.seed}, with which {parsed.state} was begun, got "
                f"{parsed.seed}; leave the flag away, or name another file with --state"
            )
    else:
        before = Drift.start(calibration, parsed.seed or 0)
    given = list(answers)
    after, steps = before.extend(one.score for one in given if one.score is not None)
    seen = [one.path for one in given if one.score is not None]

    not_written = None
    try:
        if parsed.output:
            write_atomically(parsed.output, "".join(_lines(given, steps)))
        if parsed.state:  # last: if anything failed before, the same images can be given again
            save_state(parsed.state, after)
    except DataError as error:  # what was found out is told all the same
        not_written = error
    flagged = sum(one.score is not None and calibration.is_defective(one.score) for one in given)
    for line in _summary(before, after, steps, seen, parsed.alarm_rate):
        print(line)
    print(
        f"flagged     {flagged} of {len(seen)} in this run are above the threshold; of good parts "
        f"at most {calibration.guaranteed_false_alarm_rate:.2%} are expected"
    )
    print(_verdict(before, after, steps, seen, parsed.alarm_rate))
    failed = [one for one in given if one.score is None]
    for one in failed:
        print(f"destseg: {one.path}: {one.error}", file=sys.stderr)
    if failed:
        print(f"destseg: {len(failed)} of {len(given)} images could not be read", file=sys.stderr)
    if not_written:
        print(f"destseg: error: {not_written}", file=sys.stderr)
    if after.is_alarm(parsed.alarm_rate):
        return ALARM
    return 1 if failed or not_written or not _compared(steps) else 0


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
        help="also write a JSON line an image: image, score, p_value (null where it is "
        "not compared) and martingale_log10, or image and error",
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


def _answers(
    parsed: argparse.Namespace, found: Mapping[Path, list[Path]]
) -> tuple[Calibration, Iterator[Recorded]]:
    """Return the calibration and the scores in the order given; the model runs only if needed."""
    from destseg.cli.progress import track
    from destseg.inference.backends import Runtime
    from destseg.inference.bundle import load_bundle
    from destseg.inference.exports import bundle_for
    from destseg.inference.predictor import Measurement, load
    from destseg.monitoring.recorded import Recorded, is_results, read_results

    sources = list(map(Path, parsed.images))
    if all(map(is_results, sources)):
        backend = Runtime(**runtime_options(parsed)).backend
        bundle, predictor = bundle_for(load_bundle(parsed.bundle), backend), None
    else:
        predictor = load(parsed.bundle, **runtime_options(parsed))
        bundle = predictor.bundle
    assert bundle.calibration is not None, "load_bundle always gives one"
    items: list[Path | Recorded] = []
    for source in sources:
        items += read_results(source, bundle) if is_results(source) else found[source]

    def scored() -> Iterator[Recorded]:
        paths = [item for item in items if isinstance(item, Path)]
        measured = track(predictor.measure(paths), len(paths)) if predictor else iter(())
        for item in items:
            if isinstance(item, Recorded):
                yield item
                continue
            one = next(measured)
            if isinstance(one, Measurement):
                yield Recorded(one.path, one.score)
            else:
                yield Recorded(one.path, None, one.error.reason)

    return bundle.calibration, scored()


def _lines(given: list[Recorded], steps: list[Step]) -> Iterator[str]:
    remaining = iter(steps)
    for one in given:
        line: dict[str, object] = {"path": one.path}
        if one.score is None:
            line["error"] = one.error
        else:
            step = next(remaining)
            line |= {"score": one.score, "p_value": step.p_value}
            line["martingale_log10"] = step.log10_martingale
        yield json.dumps(line) + "\n"


def _summary(
    before: Drift, after: Drift, steps: list[Step], seen: list[str], rate: float
) -> list[str]:
    compared = after.jumper.played
    now = after.jumper.log10_capital
    run = f" ({len(steps)} in this run)" if before.images else ""
    at = f"after {_which(after.highest_at, before, seen)}" if after.highest_at else "at the start"
    return [
        f"images    {after.images}{run}, of which {compared} good-looking ones are compared, "
        f"first with {len(after.scores) - compared} calibration images",
        f"martingale  {_power(now)} now; highest {_power(after.highest)}, {at}; "
        f"alarm at {1 / rate:.6g}",
    ]


def _verdict(before: Drift, after: Drift, steps: list[Step], seen: list[str], rate: float) -> str:
    from destseg.monitoring.martingale import alarm_level

    if not after.is_alarm(rate):
        if _compared(steps):
            return "no drift shown"
        why = "none of them is clearly below the threshold" if steps else "there is no score"
        return f"nothing compared in this run: {why}, so this says nothing about drift"
    level = alarm_level(rate)
    if before.is_alarm(rate):
        when = "before this run"
    else:
        first = next(i for i, step in enumerate(steps) if step.log10_martingale >= level)
        when = f"after {_which(before.images + first + 1, before, seen)}"
    way = "higher" if after.highest_lean > 0 else "lower"
    return (
        f"DRIFT: the martingale reached {1 / rate:.6g} {when}; without a change the chance of that "
        f"is at most {rate:.6g}.\nScores have become {way} than before. Look at light, lens, "
        "camera and parts; when that is mended, begin a new state, and if the new look is to "
        "stay, train anew with images of it."
    )


def _compared(steps: list[Step]) -> int:
    return sum(step.p_value is not None for step in steps)


def _which(number: int, before: Drift, seen: list[str]) -> str:
    """Return an image's number, and its name where it is one of this run."""
    inside = number - before.images - 1
    return f"image {number}" + (f" ({seen[inside]})" if 0 <= inside < len(seen) else "")


def _power(log10: float) -> str:
    """Return a number from its decimal logarithm, which may be too large for a float."""
    return f"{10**log10:.3g}" if abs(log10) < 6 else f"10^{log10:.1f}"
