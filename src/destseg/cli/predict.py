"""``destseg predict``: pictures in, JSON lines and overlays out."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from destseg.cli.flags import add_runtime_flags, command_parser, runtime_options
from destseg.errors import DataError, SettingsError

DESCRIPTION = """Say of pictures how anomalous they are, where, and whether they are defective.

PICTURES are files, folders (searched to any depth) or lists (.txt, .csv); a folder in MVTec AD's
layout means its test pictures.  One JSON line a picture is written, in the order of the input:
score and p_value, is_defective, and regions as boxes in pixels.  A picture that cannot be read
gets a line with its error; the others are done all the same, and the exit code is 1.
"""

EPILOG = """examples:
  destseg predict runs/parts part.png
  destseg predict runs/parts incoming/ --output results.jsonl --overlays overlays/
"""


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    parser = command_parser("predict", DESCRIPTION, EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of a trained model")
    parser.add_argument("pictures", metavar="PICTURES", nargs="+", help="files, folders or lists")
    parser.add_argument(
        "--output", metavar="FILE", help="file for the JSON lines (default: standard output)"
    )
    parser.add_argument(
        "--overlays",
        metavar="DIR",
        help="also write each picture with its heatmap, on the fixed scale 0 to 1, and its regions",
    )
    add_runtime_flags(parser)
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="pictures at a time (default: 8)"
    )
    parsed = parser.parse_args(words)
    if parsed.batch_size < 1:
        raise SettingsError(f"--batch-size: expected at least 1, got {parsed.batch_size}")

    from destseg.cli.progress import track
    from destseg.inference.predictor import load
    from destseg.inference.result import Failure

    named = list(_named_pictures(parsed.pictures))
    predictor = load(parsed.bundle, **runtime_options(parsed), batch_size=parsed.batch_size)
    failed = 0
    with _destination(parsed.output) as out:
        answers = predictor.stream(path for path, _ in named)
        for (path, name), answer in zip(named, track(answers, len(named)), strict=True):
            out.write(json.dumps(answer.to_json()) + "\n")
            if isinstance(answer, Failure):
                failed += 1
                print(f"destseg: {answer.error}", file=sys.stderr)
            elif parsed.overlays:
                from destseg.inference.drawing import draw_result, write_image

                target = Path(parsed.overlays) / name
                write_image(target, draw_result(path, answer))
    if failed:
        print(f"destseg: {failed} of {len(named)} pictures could not be read", file=sys.stderr)
    return 1 if failed else 0


def _named_pictures(sources: list[str]) -> Iterator[tuple[Path, str]]:
    """Yield each picture with a name for its overlay, unique and like its place in the source."""
    from destseg.cli.sources import source_pictures

    used: dict[str, int] = {}  # the names, and the last number that was added to each
    for source in map(Path, sources):
        for path in source_pictures(source):
            inside = path.relative_to(source) if source in path.parents else Path(path.name)
            name = wanted = inside.with_suffix(".png").as_posix()
            while name in used:
                used[wanted] += 1
                name = inside.with_name(f"{inside.stem}-{used[wanted]}.png").as_posix()
            used[name] = 1
            yield path, name


@contextlib.contextmanager
def _destination(output: str | None) -> Iterator[TextIO]:
    """Give standard output, or a file that appears under its name only when it is complete."""
    if output is None:
        yield sys.stdout
        return
    target = Path(output)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{target}: expected a file to write to, got {error}") from error
    if target.is_dir():
        raise DataError(f"{target}: expected a file to write to, got a folder")
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
