"""``destseg predict``: images in, JSON lines and overlays out."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import destseg
from destseg.cli.flags import add_runtime_flags, command_parser, runtime_options
from destseg.errors import DataError

DESCRIPTION = """Say how anomalous images are, where, and whether they are defective.

IMAGES are files, folders (searched to any depth) or lists (.txt, .csv); a folder in MVTec AD's
layout means its test images.  Each image gives a line of JSON, in the order of the input: score
and p_value, is_defective, and regions as boxes in pixels.  An image that cannot be read gets a
line with its error; the others are inspected all the same, and the exit code is 1.

The file of --output appears when all lines are in it.  If the command is ended earlier, the lines
so far are kept beside it, and it says where.  Overlays that cannot be written are named, and the
exit code is 1.  Outputs that would replace an image or the model are refused, and overlays in a
folder that is searched.
"""

EPILOG = """examples:
  destseg predict runs/parts part.png
  destseg predict runs/parts incoming/ --output results.jsonl --overlays overlays/
"""


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    parser = command_parser("predict", DESCRIPTION, EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of a trained model")
    parser.add_argument("images", metavar="IMAGES", nargs="+", help="files, folders or lists")
    parser.add_argument(
        "--output", metavar="FILE", help="file for the JSON lines (default: standard output)"
    )
    parser.add_argument(
        "--overlays",
        metavar="DIR",
        help="also write each image with its heatmap, on the fixed scale 0 to 1, and its regions",
    )
    add_runtime_flags(parser)
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="images at a time (default: 8)"
    )
    parsed = parser.parse_args(words)

    from destseg.cli.progress import track
    from destseg.data.paths import expanded
    from destseg.data.sources import named_images
    from destseg.interruption import Interruption

    named = list(named_images(map(expanded, parsed.images)))
    output, overlays = (
        None if place is None else expanded(place) for place in (parsed.output, parsed.overlays)
    )
    _require_outputs(parsed, output, overlays, named)
    predictor = destseg.load(parsed.bundle, **runtime_options(parsed), batch_size=parsed.batch_size)
    failed = not_drawn = 0
    with _destination(output) as add, Interruption().watch() as interruption:
        answers = predictor.stream(path for path, _ in named)
        inspected = zip(named, track(answers, len(named)), strict=True)
        for number, ((_, name), answer) in enumerate(inspected, 1):
            add(json.dumps(answer.to_json()) + "\n")
            if isinstance(answer, destseg.Failure):
                failed += 1
                print(f"destseg: {answer.error}", file=sys.stderr)
            elif overlays is not None:
                not_drawn += not _draw(answer, overlays / name)
            if interruption.signal is not None and number < len(named):
                if output is None:
                    print(
                        f"destseg: stopped after {number} of {len(named)} images", file=sys.stderr
                    )
                raise SystemExit(128 + interruption.signal)
    if failed:
        print(f"destseg: {failed} of {len(named)} images could not be read", file=sys.stderr)
    if not_drawn:
        print(f"destseg: {not_drawn} of {len(named)} overlays are missing", file=sys.stderr)
    return 1 if failed or not_drawn else 0


def _require_outputs(
    parsed: argparse.Namespace,
    output: Path | None,
    overlays: Path | None,
    named: list[tuple[Path, str]],
) -> None:
    """Refuse outputs that would replace what is read, or that cannot be written."""
    from destseg.data.outputs import require_apart, require_file, require_folder, require_outside
    from destseg.data.paths import expanded
    from destseg.inference.bundle import own_files

    results = [] if output is None else [output]
    drawings = [] if overlays is None else [overlays / name for _, name in named]
    read = [*map(Path, parsed.images), *(path for path, _ in named), *own_files(parsed.bundle)]
    require_apart([*results, *drawings], read)
    if overlays is not None:
        require_outside(overlays, map(expanded, parsed.images), "--overlays")
        require_folder(overlays)
    for path in results:  # after that: the folder may have been made in the file's place
        require_file(path)


def _draw(answer: destseg.Result, target: Path) -> bool:
    """Write an overlay; tell and return false if it cannot be: the results are what counts."""
    try:
        answer.save_overlay(target)
    except DataError as error:
        print(f"destseg: no overlay: {error}", file=sys.stderr)
        return False
    return True


@contextlib.contextmanager
def _destination(output: Path | None) -> Iterator[Callable[[str], object]]:
    """Give what writes a line: to standard output, or to a file that appears when it is complete.

    What was written until a failure or a signal is kept under another name, which is told.
    """
    if output is None:
        yield sys.stdout.write
        return
    from destseg.data.files import LinesFile

    lines = LinesFile(output)
    try:
        yield lines.add
        lines.finish()
    except BaseException:
        if kept := lines.keep():
            print(
                f"destseg: {output} is not finished; its first {lines.lines} lines are kept in "
                f"{kept}",
                file=sys.stderr,
            )
        raise
