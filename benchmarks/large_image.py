"""Peak memory of inspecting a very large image in tiles: ``python benchmarks/large_image.py``.

The backend is a trivial one, so that what is measured is the way around it: reading, tiling,
merging, scoring, regions.  Each case runs in a process of its own.  The exit code is 1 where
``--limit-gib`` is exceeded.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

CASES = ("good", "spots", "everywhere")


def write_image(path: Path, side: int) -> Path:
    """Write a dark image with three bright spots, of which the last is in the corner."""
    image = np.full((side, side, 3), 20, np.uint8)
    for y, x in ((side // 3, side // 2), (side // 2, side // 3), (side - 40, side - 40)):
        image[y : y + 40, x : x + 40] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def inspect(options: argparse.Namespace) -> dict[str, object]:
    """Inspect an image in this process; return what was found and the process's peak memory."""
    from destseg.config import Settings
    from destseg.data.roi import Roi
    from destseg.inference.bundle import save_bundle, save_calibration
    from destseg.inference.calibration import Calibration
    from destseg.inference.predictor import Predictor
    from destseg.inference.result import Result

    settings = Settings.from_preset(
        image_size=options.tile, tile=True, tile_overlap=options.overlap, max_pixels=2**31
    )
    threshold = {"good": 1.0, "spots": 0.5, "everywhere": 0.01}[options.case]
    roi = None
    if options.roi:
        # All but a frame, so that little is saved by tiles that are not run.
        mask = np.zeros((1000, 1000), bool)
        mask[1:, 1:] = True
        roi = Roi(mask)
    saved = save_bundle(options.image.parent / "model", settings, {}, {}, roi)
    calibration = Calibration.fit(
        [threshold], [threshold], ["a"], settings, saved.weights_sha256, saved.roi_sha256
    )
    bundle = save_calibration(saved, calibration)
    predictor = Predictor(bundle, lambda tiles: tiles[..., 0].astype(np.float32) / 255)
    begun = time.perf_counter()
    scores, regions = [], []
    for result in predictor.stream([options.image] * options.images):
        assert isinstance(result, Result)
        scores.append(result.score)
        regions.append(len(result.regions))
    return {
        "case": options.case,
        "images": options.images,
        "roi": options.roi,
        "scores": scores,
        "regions": regions,
        "seconds": round(time.perf_counter() - begun, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        "torch_imported": "torch" in sys.modules,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=16384, help="of the image in pixels")
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--images", type=int, default=1, help="one after the other")
    parser.add_argument("--roi", action="store_true", help="with a region of interest")
    parser.add_argument("--suffix", default=".png", help="format of the image's file")
    parser.add_argument("--limit-gib", type=float, default=4.0)
    parser.add_argument("--case", choices=CASES, help="only this one, in this process")
    parser.add_argument("--image", type=Path)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(inspect(options)))
        return 0
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = write_image(Path(folder, f"large{options.suffix}"), options.side)
        for case in CASES:
            command = [sys.executable, __file__, *sys.argv[1:], "--case", case]
            done = subprocess.run(
                [*command, "--image", str(path)], check=True, capture_output=True, text=True
            )
            print(done.stdout, end="", flush=True)
            worst = max(worst, json.loads(done.stdout)["peak_gib"])
    print(f"peak {worst:.2f} GiB, limit {options.limit_gib:g} GiB")
    return int(worst > options.limit_gib)


if __name__ == "__main__":
    sys.exit(main())
