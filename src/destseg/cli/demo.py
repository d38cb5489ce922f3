"""``destseg demo``: the whole path on made-up parts, in minutes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import destseg
from destseg.cli.flags import command_parser
from destseg.config import Settings
from destseg.data.lists import counted
from destseg.errors import DataError, needs_extra

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DESCRIPTION = """Make a small data set, train on its good parts, and inspect the others.

The parts are cut from a photograph of a brick wall that comes with scikit-image.  Scratches,
stains, holes and missing pieces are drawn on the test images by code that has nothing in common
with the synthetic anomalies of training.  It takes a few minutes on two cores and downloads
nothing.
"""


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    parser = command_parser("demo", DESCRIPTION)
    parser.add_argument(
        "--output", metavar="DIR", default="demo-output", help="folder (default: demo-output)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed (default: 0)")
    parsed = parser.parse_args(words)
    settings = Settings.from_preset(
        "fast",
        image_size=128,
        denoise_steps=DENOISE_STEPS,
        segment_steps=SEGMENT_STEPS,
        # Ten calibration images cannot guarantee less than 1 in 11.
        max_false_alarm_rate=0.1,
        seed=parsed.seed,
    )
    _demonstrate(Path(parsed.output), settings)
    return 0


DENOISE_STEPS = 200
SEGMENT_STEPS = 400


def _demonstrate(output: Path, settings: Settings) -> None:
    begun = time.monotonic()
    from destseg.data.demo_parts import MARKER, make_demo_parts
    from destseg.data.images import write_image
    from destseg.data.samples import test_samples

    parts, bundle, overlays = output / "parts", output / "model", output / "overlays"
    if not (parts / MARKER).is_file():
        _require_free(bundle, overlays, output / "sheet.png")
    make_demo_parts(parts)
    print(f"made-up parts, good and defective: {parts}")
    predictor = destseg.train(parts, output=bundle, settings=settings, overwrite=True)
    with needs_extra("train", "destseg demo"):
        from destseg.inference.backends.torch_ import untrained_head
    samples = test_samples(parts)
    trained = destseg.evaluate(predictor, samples)
    before = destseg.Predictor(predictor.bundle, untrained_head(predictor.bundle))
    untrained = destseg.evaluate(before, samples)
    _write_overlays(predictor, samples, overlays)
    write_image(output / "sheet.png", _sheet(predictor, samples))
    false_alarms, missed = trained.false_alarms, trained.misses
    print(
        f"""
{len(samples)} test images, {missed.total} of them defective:

                        image AUROC   pixel AP
  head before training  {untrained.image.auroc:11.3f}   {untrained.pixel.ap:8.3f}
  head after training   {trained.image.auroc:11.3f}   {trained.pixel.ap:8.3f}

at the threshold, which only good parts have set:
  found {missed.total - missed.count} of {missed.total} defective parts
  {counted(false_alarms.count, "false alarm")} in {false_alarms.total} good parts

done in {(time.monotonic() - begun) / 60:.1f} minutes; look at
  {output / "sheet.png"}   an image of each defect type, the drawn defect, the heatmap
  {overlays}    all test images with their heatmaps and regions
  {bundle}       the trained model

next, with images of your own good parts:
  destseg preview FOLDER                       look at the anomalies that training will make up
  destseg train FOLDER --output runs/parts    learn from them
  destseg predict runs/parts NEW-IMAGES     inspect others"""
    )


def _require_free(*places: Path) -> None:
    """Refuse to write over what no earlier demo made."""
    for place in places:
        if place.exists():
            raise DataError(
                f"{place}: expected nothing there, since no demo was made in {place.parent} "
                "before, got something. Choose another --output."
            )


def _write_overlays(
    predictor: destseg.Predictor, samples: list[destseg.Sample], folder: Path
) -> None:
    """Write every image with its heatmap and regions."""
    results = predictor.predict([sample.path for sample in samples])
    for sample, result in zip(samples, results, strict=True):
        result.save_overlay(folder / str(sample.defect_type) / f"{sample.path.stem}.png")


def _sheet(predictor: destseg.Predictor, samples: list[destseg.Sample]) -> NDArray[np.uint8]:
    """Return a sheet with the first test image of each defect type."""
    import numpy as np

    from destseg.data.drawing import colour_map, contact_sheet
    from destseg.data.images import read_image

    rows = []
    for name in dict.fromkeys(sample.defect_type for sample in samples):
        sample = next(sample for sample in samples if sample.defect_type == name)
        result = predictor.predict(sample.path)
        image = read_image(sample.path)
        mask = read_image(sample.mask) if sample.mask else np.zeros_like(image)
        rows.append([image, mask, colour_map(result.heatmap), result.overlay()])
    return contact_sheet(rows, captions=["image", "defect", "heatmap", "regions"], cell=(192, 192))
