"""Train on a data set in MVTec layout, score its test images, and append a row of results.

    python benchmarks/train_and_score.py DATA --output DIR [--change TEXT] [flags of destseg train]

The final weights are scored; nothing is chosen on the test images.  A finished model in DIR is
scored as it is; an interrupted one goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import destseg
from destseg.cli.flags import add_settings_flags, base_settings, settings_options
from destseg.data.samples import test_samples
from destseg.evaluation.evaluate import evaluate
from provenance import commit, environment

RESULTS = Path(__file__).parent / "results" / "accuracy.jsonl"


def main() -> int:
    words = sys.argv[1:]
    base = base_settings(words)
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("data", help="data set in MVTec layout")
    parser.add_argument("--output", required=True, help="folder of the model")
    parser.add_argument("--results", default=str(RESULTS), help="file that the row is added to")
    parser.add_argument("--change", default="", help="what is new in this run, for the row")
    add_settings_flags(parser, base)
    parsed = parser.parse_args(words)
    settings = base.replace(**settings_options(parsed))
    folder = Path(parsed.output)
    begun = (folder / "manifest.json").exists() or (folder / "checkpoint.safetensors").exists()
    predictor = destseg.train(parsed.data, output=folder, settings=settings, resume=begun)
    row = result_row(parsed.data, predictor, parsed.change)
    print(json.dumps(row, indent=1))
    with Path(parsed.results).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return 0


def result_row(data: str, predictor: destseg.Predictor, change: str) -> dict[str, object]:
    settings, training = predictor.bundle.settings, predictor.bundle.training
    evaluation = evaluate(predictor, test_samples(data)).to_json()
    textures = settings.synthesis.textures
    defaults = destseg.Settings().flat()
    return {
        "data": Path(data).resolve().name,
        "preset": settings.preset,
        "teacher": settings.model.teacher,
        "textures": textures if textures == "builtin" else Path(textures).resolve().name,
        "seed": settings.training.seed,
        "image_auroc": evaluation["image"]["auroc"],
        "pixel_auroc": evaluation["pixel"]["auroc"],
        "pixel_ap": evaluation["pixel"]["ap"],
        "aupro": evaluation["pixel"]["aupro"],
        "iap": evaluation["pixel"]["iap"],
        "iap_90": evaluation["pixel"]["iap_90"],
        "false_alarms": evaluation["false_alarms"],
        "misses": evaluation["misses"],
        "coverage": evaluation["coverage"],
        "minutes": training["minutes"],
        "images_per_s": training["images_per_s"],
        "device": training["device"],
        "threads": training["threads"],
        **environment("torch", "timm", "numpy"),
        "commit": commit(),
        "change": change,
        "settings": {
            name: value
            for name, value in settings.flat().items()
            if value != defaults[name] and name not in ("textures", "device")
        },
    }


if __name__ == "__main__":
    sys.exit(main())
