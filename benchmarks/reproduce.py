"""Train and evaluate categories x seeds x presets of a published data set, beside the paper.

    python benchmarks/reproduce.py mvtec ROOT --output DIR --seeds 0 1 2 [flags of destseg train]

Every run has its own folder; a finished one is not run again, an interrupted one goes on.  One of
other training images is refused, and where the test images are others it is measured anew.  The
final weights are evaluated; nothing is chosen on the test images.  Runs are jobs as those of
``destseg train-many``: one after another in this process, or side by side with --cpus or --gpus.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import destseg
from destseg.categories.job import JobOutcome, measured_otherwise, run_job
from destseg.categories.plan import Category, TrainingJob, measure_anew, require_same_runs
from destseg.categories.ray_jobs import Resources, run_on_ray
from destseg.categories.summary import mean_and_deviation
from destseg.cli.flags import add_settings_flags, base_settings, settings_options
from destseg.cli.jobs_table import JobsShown
from destseg.cli.train_many import add_resource_flags
from destseg.data.files import write_atomically
from destseg.data.lists import some
from destseg.evaluation.outcomes import Coverage
from layouts import LAYOUTS, Images, read_layout
from provenance import commit, environment

METRICS = ("image_auroc", "pixel_auroc", "pixel_ap", "iap", "iap_90")

# Paper, five seeds: pixel AUROC, pixel AP, IAP, IAP@90 in per cent.
PAPER: dict[str, tuple[float, float, float, float]] = {
    "bottle": (99.2, 90.3, 90.5, 82.5),
    "cable": (97.3, 60.4, 51.1, 26.7),
    "capsule": (99.1, 56.3, 49.4, 27.3),
    "carpet": (96.1, 72.8, 84.5, 58.6),
    "grid": (99.1, 61.5, 61.6, 47.4),
    "hazelnut": (99.6, 88.4, 87.7, 77.6),
    "leather": (99.7, 75.6, 77.5, 65.3),
    "metal_nut": (98.6, 93.5, 93.6, 86.5),
    "pill": (98.7, 83.1, 84.8, 61.1),
    "screw": (98.5, 58.7, 53.6, 8.6),
    "tile": (98.0, 90.0, 94.7, 86.5),
    "toothbrush": (99.3, 75.2, 59.8, 32.1),
    "transistor": (89.1, 64.8, 78.3, 49.6),
    "wood": (97.7, 81.9, 87.8, 76.4),
    "zipper": (99.1, 85.2, 90.6, 80.3),
}

# The paper's choice per category; of other data sets none is published.
ROTATION = {
    name: {"rotation": 5.0, "quarter_turns": name not in ("cable", "wood", "zipper")}
    for name in PAPER
    if name not in ("capsule", "metal_nut", "pill", "toothbrush", "transistor")
}


def main(words: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if words is None else words)
    base = base_settings(words)
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("dataset", choices=sorted(LAYOUTS))
    parser.add_argument("root", type=Path, help="its folder, as published")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--results", type=Path, help="JSON (default: results.json in the output)")
    parser.add_argument("--categories", nargs="+", help="only these (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--presets", nargs="+", default=[base.preset])
    add_resource_flags(parser)
    parser.set_defaults(cpus=None, gpus=None)
    add_settings_flags(parser, base)
    parsed = parser.parse_args(words)
    changes = {
        name: value
        for name, value in base.replace(**settings_options(parsed)).flat().items()
        if value != base.flat()[name]
    }
    categories = [
        category
        for category in read_layout(parsed.dataset, parsed.root)
        if not parsed.categories or category.name in parsed.categories
    ]
    jobs = [
        job_of(category, preset, seed, changes, parsed.output)
        for preset in parsed.presets
        for category in categories
        for seed in parsed.seeds
    ]
    require_same_runs(jobs)
    stale = [job for job in jobs if measured_otherwise(job)]
    measure_anew(stale)
    for job in stale:
        row_file(job).unlink(missing_ok=True)
    missing = [job for job in jobs if not row_file(job).is_file()]
    failed = []
    for outcome in outcomes_of(missing, parsed):
        if outcome.result is None:
            failed.append(f"{outcome.job.name}: {outcome.reason}")
            print(failed[-1], file=sys.stderr)
            continue
        row = row_of(outcome.result)
        coverage = Coverage(**row["coverage"])
        if coverage.with_mask < coverage.given:  # no figure to lay beside those of others
            unread = some([each["path"] for each in row["failures"]])
            failed.append(f"{outcome.job.name}: {coverage}; could not be read: {unread or 'none'}")
            print(failed[-1], file=sys.stderr)
        write_atomically(row_file(outcome.job), json.dumps(row, indent=1) + "\n")
    files = [path for job in jobs if (path := row_file(job)).is_file()]
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    results = parsed.results or parsed.output / "results.json"
    header = {"dataset": parsed.dataset, **environment("torch", "timm", "numpy")}
    write_atomically(results, json.dumps({**header, "runs": rows}, indent=1) + "\n")
    print(table(rows))
    print(f"written: {results}")
    return 1 if failed else 0


def job_of(
    category: Images, preset: str, seed: int, changes: Mapping[str, Any], output: Path
) -> TrainingJob:
    """Return a cell of the table as a job, its training images listed in its folder."""
    own = {**ROTATION.get(category.name, {}), **changes, "seed": seed}
    settings = destseg.Settings.from_preset(preset, **own)
    folder = output.absolute() / preset / category.name / f"seed-{seed}"
    listed = folder / "train.txt"
    write_atomically(listed, "".join(f"{path.resolve()}\n" for path in category.training))
    return TrainingJob(Category(category.name, listed, category.test), settings, folder / "model")


def row_file(job: TrainingJob) -> Path:
    return job.folder.with_name("reproduce.json")


def outcomes_of(jobs: list[TrainingJob], parsed: argparse.Namespace) -> Iterator[JobOutcome]:
    if parsed.cpus is None and parsed.gpus is None and parsed.address is None:
        yield from map(run_job, jobs)
        return
    resources = Resources(parsed.cpus or 1, parsed.gpus or 0.0, parsed.retries, parsed.address)
    with JobsShown(quiet=False) as shown:
        shown.begin(len(jobs))
        for outcome in run_on_ray(jobs, resources, shown.update):
            shown.ended(outcome)
            yield outcome


def row_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the table and its file keep of a result."""
    image, pixel = result["metrics"]["image"], result["metrics"]["pixel"]
    return {
        **{name: result[name] for name in ("category", "preset", "seed")},
        "image_auroc": image["auroc"],
        **{f"pixel_{name}": pixel[name] for name in ("auroc", "ap")},
        **{name: pixel[name] for name in ("aupro", "iap", "iap_90")},
        **{name: result["metrics"][name] for name in ("false_alarms", "misses")},
        **{name: result["metrics"][name] for name in ("coverage", "failures")},
        **{name: result[name] for name in ("teacher", "minutes", "images_per_s", "device")},
        "commit": commit(),
        "settings": result["settings"],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return mean and standard deviation over seeds, per cent, beside the paper's figures."""
    head = ["preset", "category", "seeds", *METRICS, "paper: pixel_auroc pixel_ap iap iap_90"]
    lines = [head]
    for preset, category in dict.fromkeys((row["preset"], row["category"]) for row in rows):
        own = [r for r in rows if (r["preset"], r["category"]) == (preset, category)]
        paper = " ".join(f"{value:.1f}" for value in PAPER.get(category, ()))
        lines.append(
            [
                preset,
                category,
                str(len(own)),
                *(mean_and_deviation(defined(row[name] for row in own)) for name in METRICS),
                paper or "-",
            ]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def defined(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and not math.isnan(value)]


if __name__ == "__main__":
    sys.exit(main())
