"""``destseg calibrate``: a new threshold for a trained model, without training or exporting."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import destseg
from destseg.cli.flags import add_runtime_flags, command_parser, reader, runtime_options
from destseg.config import Room
from destseg.data.lists import counted
from destseg.model_folder import METRICS, QUALIFICATION, REPORT

if TYPE_CHECKING:
    from destseg.inference.calibration import Calibration, GroupScores

DESCRIPTION = """Fit the threshold of a trained model anew; nothing is trained or exported again.

GOOD are images of good parts as the line sees them now.  The model must not have been trained on
them: its own training images look better than any new part.  Of labelled folders and lists the
good images are taken; the rest is left out or refused, as destseg train does.  Without GOOD the
calibration scores stay and only the rate changes.  Quantised forms in the bundle, which have
scores of their own, are fitted to the same images.

--group-by says what images have in common with each other and not with tomorrow's, such as a day:
a group counts once, and the rate is guaranteed for a new image of a new group.  --add adds GOOD,
such as another day, to the calibration images that there are.

The old calibration stays in the bundle as calibration.until-TIME.json, beside the new one;
--restore goes back to it.
"""

EPILOG = """examples:
  destseg calibrate runs/bottle new_good_parts
  destseg calibrate runs/bottle new_good_parts --max-false-alarm-rate 0.002
  destseg calibrate runs/bottle --max-false-alarm-rate 0.05
  destseg calibrate runs/bottle days --group-by folder
  destseg calibrate runs/bottle days/2026-11-27 --add
  destseg calibrate runs/bottle --restore calibration.until-20261101T080000Z.json
"""

_SHOWN = 30
_OF_THE_THRESHOLD = (METRICS, REPORT, QUALIFICATION)


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    parser = command_parser("calibrate", DESCRIPTION, EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of a trained model")
    parser.add_argument("good", metavar="GOOD", nargs="?", help="folder or list of good images")
    parser.add_argument(
        "--add", action="store_true", help="add GOOD to the calibration images that there are"
    )
    parser.add_argument(
        "--group-by",
        metavar="BY",
        help="folder, name:REGEX (on the file's name; its first brackets name the group), "
        "column:NAME (of the list), day (EXIF), alike (nearly the same image) or image (none; "
        "default: as it was)",
    )
    parser.add_argument(
        "--max-false-alarm-rate",
        type=float,
        metavar="A",
        help="fraction of good parts that may be called defective (default: as it was)",
    )
    parser.add_argument(
        "--confidence",
        type=float,
        metavar="C",
        help="let that rate hold with this confidence, such as 0.95; 0 in the mean (default: as "
        "it was)",
    )
    parser.add_argument(
        "--room",
        type=reader(Room),
        metavar="R",
        help="how far the threshold rises from good images towards synthetic anomalies: 0 (not at "
        "all) to 1 (all the way), or auto: half of the way, but not above 0.5 (default: as it was)",
    )
    parser.add_argument(
        "--restore", metavar="FILE", help="go back to a calibration that was kept, by its name"
    )
    add_runtime_flags(parser)
    parsed = parser.parse_args(words)

    from destseg.cli.progress import progress_bar

    with progress_bar() as show:
        done = destseg.calibrate(
            parsed.bundle,
            parsed.good,
            add=parsed.add,
            group_by=parsed.group_by,
            max_false_alarm_rate=parsed.max_false_alarm_rate,
            confidence=parsed.confidence,
            room=parsed.room,
            restore=parsed.restore,
            on_progress=show,
            **runtime_options(parsed),
        )
    for form, calibration in done.after.items():
        _tell(form, done.before.get(form), calibration)
    for line in done.known.lines(done.calibration) if done.known else ():
        print(line)
    for form in done.unchanged:
        print(f"destseg: note: {form} has no calibration that was changed", file=sys.stderr)
    print(
        f"the old calibration is kept as {done.kept}; "
        f"to go back: destseg calibrate {done.kept.parent} --restore {done.kept.name}"
    )
    if stale := [name for name in _OF_THE_THRESHOLD if (done.kept.parent / name).is_file()]:
        print(
            f"destseg: note: {', '.join(stale)}: still of the old threshold; make anew with "
            "destseg evaluate, report or qualify",
            file=sys.stderr,
        )
    return 0


def _tell(form: str, old: Calibration | None, new: Calibration) -> None:
    was = f" (was {old.threshold:.4f})" if old is not None else ""
    groups = new.by_group()
    which = "" if form == "fp32" else f"{form}: "
    print(
        f"{which}threshold {new.threshold:.4f}{was}, {new.guarantee()}, "
        f"from {counted(len(new.scores), 'good image')}"
        + (f" of {counted(len(groups), 'group')}" if groups else "")
    )
    for line in _group_lines(groups):
        print(f"  {line}")
    print(f"  {new.set_by()}")
    for note in (new.guarantee_note(), new.lone_note()):
        if note:
            print(f"destseg: note: {note}", file=sys.stderr)


def _group_lines(groups: Sequence[GroupScores]) -> list[str]:
    """Return a line a group; of very many those that score highest."""
    if not groups:
        return []
    shown = {each.group for each in sorted(groups, key=lambda each: -each.highest)[:_SHOWN]}
    width = max(map(len, ["group", *shown]))
    lines = [f"{'group':{width}}  images  median score  highest"]
    lines += [
        f"{each.group:{width}}  {each.images:6}  {each.median:12.4f}  {each.highest:7.4f}"
        for each in groups
        if each.group in shown
    ]
    if len(groups) > _SHOWN:
        lines.append(f"and {counted(len(groups) - _SHOWN, 'more group')} with lower highest scores")
    return lines
