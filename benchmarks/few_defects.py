"""What a few known defects are worth: k a type are learned, the rest of the test images measure.

    python benchmarks/few_defects.py DATA --output DIR [--base BUNDLE] [flags of destseg train]

A model of good images alone is trained once, or given as --base; each set of known defects goes on
from it (heads only), so that a set takes minutes.  Every k is drawn several times, and for unknown
types one type after another is left out of what is learned and measured alone.  Both models are
measured on the same images, those that none of them has seen.  A finished set is not run again.

Of four defects of a type training itself keeps one to measure with: with k = 5, four are learned.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import destseg
from destseg.cli.flags import add_settings_flags, base_settings, settings_options
from destseg.config import Settings
from destseg.data.masks import read_mask
from destseg.data.samples import test_samples
from destseg.model_folder import MANIFEST
from provenance import commit, environment

RESULTS = Path(__file__).parent / "results" / "few_defects.jsonl"
METRICS = ("image_auroc", "pixel_ap", "aupro", "missed", "false_alarms")
QUICK = {"segment_steps": 20, "warmup_steps": 5, "denoise_steps": 20}


def main() -> int:
    words = sys.argv[1:]
    base = base_settings(words)
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("data", type=Path, help="data set in MVTec layout")
    parser.add_argument("--output", type=Path, required=True, help="folder for all models")
    parser.add_argument("--base", type=Path, help="finished model of the good images alone")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 2, 5, 10], help="defects a type")
    parser.add_argument("--draws", type=int, default=3, help="draws of each k")
    parser.add_argument(
        "--without", type=int, default=5, help="k where a type is left out; 0: none"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="file for the rows")
    parser.add_argument("--quick", action="store_true", help="one tiny draw, to see that it runs")
    add_settings_flags(parser, base)
    parsed = parser.parse_args(words)
    settings = base.replace(**settings_options(parsed))
    if parsed.quick:
        settings = settings.replace(**QUICK)
        parsed.k, parsed.draws, parsed.without = [2], 1, 2
    samples = test_samples(parsed.data)
    start = parsed.base or base_model(parsed.data, parsed.output / "base", settings)
    types = sorted({each.defect_type for each in samples if each.is_defective})
    left_out = types[: 1 if parsed.quick else None] if parsed.without and len(types) > 1 else []
    plans = [(k, draw, None) for k in parsed.k for draw in range(parsed.draws)]
    plans += [(parsed.without, 0, name) for name in left_out]
    rows = []
    for k, draw, without in plans:
        folder = parsed.output / f"k{k}-draw{draw}{'-without-' + without if without else ''}"
        learned, rest = drawn(samples, k, draw, without)
        if not any(each.is_defective for each in rest):
            print(f"k = {k}: no defect is left to measure on")
            continue
        row = row_of(parsed.data, start, folder, learned, rest, settings if parsed.quick else None)
        rows.append(
            {"data": parsed.data.resolve().name, "k": k, "draw": draw, "without": without, **row}
        )
        print(json.dumps(rows[-1]), flush=True)
        with parsed.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))
    return 0


def base_model(data: Path, folder: Path, settings: Settings) -> Path:
    """Return the folder of a model of the good images alone; a finished one is taken as it is."""
    if not (folder / MANIFEST).exists():
        destseg.train(data, output=folder, settings=settings)
    return folder


def drawn(
    samples: Sequence[destseg.Sample], k: int, draw: int, without: str | None
) -> tuple[list[destseg.Sample], list[destseg.Sample]]:
    """Return what is learned, k defects of each type with masks, and what measures.

    Args:
        samples: test images.
        k: how many of a type, if it has more; else all but one.
        draw: number of the draw.
        without: type of which none is learned, and which alone measures; ``None``: all measure.
    """
    random = np.random.default_rng([k, draw])
    learned: list[destseg.Sample] = []
    for name in sorted({str(each.defect_type) for each in samples if each.is_defective}):
        of_type = [each for each in samples if each.defect_type == name and each.mask]
        count = min(k, max(0, len(of_type) - 1))
        # A data set may have masks that mark nothing; from these nothing can be learned.
        order = (i for i in random.permutation(len(of_type)) if marks(of_type[i].mask))
        chosen = itertools.islice(order, count)
        learned += [of_type[i] for i in sorted(chosen)] if name != without else []
    seen = {each.path for each in learned}
    rest = [each for each in samples if each.path not in seen]
    if without is not None:
        rest = [each for each in rest if not each.is_defective or each.defect_type == without]
    return learned, rest


def marks(mask: Path | None) -> bool:
    """Return whether a mask marks a defect."""
    return mask is not None and bool(read_mask(mask).any())


def row_of(
    data: Path,
    start: Path,
    folder: Path,
    learned: Iterable[destseg.Sample],
    rest: Sequence[destseg.Sample],
    settings: Settings | None,
) -> dict[str, Any]:
    """Return what a set of known defects changes, on images that no model has seen."""
    box = folder.with_name(f"{folder.name}-defects")
    copied(learned, box)
    done = (folder / MANIFEST).exists()
    changes = {} if settings is None else {"segment_steps": settings.training.segment_steps}
    model = (
        destseg.load(folder)
        if done
        else destseg.train(
            data, output=folder, ancestor=start, defects=box, accept_losses=True, **changes
        )
    )
    before, after = (measured(destseg.load(start), rest), measured(model, rest))
    return {
        "before": before,
        "after": after,
        "minutes": model.bundle.training["minutes"],
        "commit": commit(),
        **environment("torch", "numpy"),
    }


def copied(samples: Iterable[destseg.Sample], box: Path) -> None:
    """Write a box of bad parts: a folder a type, with masks in ground_truth/."""
    shutil.rmtree(box, ignore_errors=True)
    for each in samples:
        assert each.mask is not None
        name = str(each.defect_type)
        for source, target in (
            (each.path, box / name / each.path.name),
            (each.mask, box / "ground_truth" / name / f"{each.path.stem}_mask{each.mask.suffix}"),
        ):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def measured(model: destseg.Predictor, rest: Sequence[destseg.Sample]) -> dict[str, Any]:
    """Return the metrics of a model on images, and how many defects it misses."""
    found = destseg.evaluate(model, rest)
    return {
        "image_auroc": found.image.auroc,
        "pixel_ap": found.pixel.ap,
        "aupro": found.pixel.aupro,
        "missed": found.misses.value,
        "false_alarms": found.false_alarms.value,
        "defects": found.misses.total,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table in Markdown: before and after, mean and standard deviation of the draws."""
    lines = ["| set | " + " | ".join(METRICS) + " |", "|---|" + "---|" * len(METRICS)]
    sets: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        name = f"unknown: {row['without']}" if row["without"] else f"k = {row['k']}"
        sets.setdefault(name, []).append(row)
    for name, group in sets.items():
        for when in ("before", "after"):
            cells = [_spread([row[when][metric] for row in group]) for metric in METRICS]
            lines.append(f"| {name}, {when} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{deviation}"


if __name__ == "__main__":
    sys.exit(main())
