"""The demo's data set: crops of one photograph as parts, with drawn defects, no download.

Good parts are crops of scikit-image's photograph of a brick wall (CC0).  Images to
train on and images to test on come from two regions of it that share no pixel.  The defects are
vector drawings, which have nothing in common with the noise and textures that training puts on
good parts; a model that finds them has not seen their like.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from destseg.data.images import read_image, write_image
from destseg.errors import DataError, MissingExtraError, SettingsError

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Painter = Callable[[Floats, np.random.Generator], tuple[Floats, Floats]]

MARKER = "demo-parts.json"
PHOTOGRAPH = "brick.png"
# Fraction of the photograph's width that is for the test.  It is the left because the right shows a
# few real scratches: in a test they would be defects without a mask, in training they are wear.
TEST_FRACTION = 0.35
WINDOW = (116.0, 140.0)  # side of a crop in the photograph's pixels
OVERSAMPLING = 4  # drawings are made this much larger and averaged down, for smooth edges
VISIBLE = 0.3  # a pixel belongs to a defect where the drawing covers more than this of it


@dataclass(frozen=True)
class _Plan:
    """What is asked for: equal plans give equal files."""

    n_train: int
    n_test_good: int
    n_per_defect: int
    size: int
    seed: int
    version: int = 1  # raise it when the images change, so that old folders are not reused

    def __post_init__(self) -> None:
        least = {"n_train": 1, "n_test_good": 0, "n_per_defect": 0, "size": 48, "seed": 0}
        wrong = [
            f"{name}: expected a whole number of at least {low}, got {getattr(self, name)!r}"
            for name, low in least.items()
            if not isinstance(getattr(self, name), int) or getattr(self, name) < low
        ]
        if wrong:
            raise SettingsError("\n".join(wrong))

    def images(self) -> Iterator[tuple[str, str, int]]:
        """Yield (split, defect_type, index) of every image."""
        yield from (("train", "good", i) for i in range(self.n_train))
        yield from (("test", "good", i) for i in range(self.n_test_good))
        yield from (
            ("test", defect_type, i) for defect_type in PAINTERS for i in range(self.n_per_defect)
        )


def make_demo_parts(
    folder: Path,
    *,
    n_train: int = 60,
    n_test_good: int = 16,
    n_per_defect: int = 8,
    size: int = 160,
    seed: int = 0,
) -> None:
    """Write a small data set in MVTec AD's layout: good parts, and parts with drawn defects.

    ``train/good``, ``test/good`` and ``test/<defect_type>`` get RGB images ``000.png``, ...;
    ``ground_truth/<defect_type>`` gets masks ``000_mask.png``, 255 where the defect is visible, 0
    elsewhere.  The defect types are scratch, stain, hole and missing_piece.  The folder appears
    complete or not at all; one that an equal call made before is left as it is.

    Args:
        folder: where to; new, empty or made by an equal call.
        n_train: good images to train on.
        n_test_good: good images to test on.
        n_per_defect: images of each defect type.
        size: side of all images in pixels, at least 48.
        seed: equal seeds give equal files, and each image is independent of how many there are.

    Raises:
        SettingsError: for a number that is too small.
        DataError: for a folder with other contents, or one that cannot be written.
        MissingExtraError: without scikit-image, which carries the photograph.
    """
    plan = _Plan(n_train, n_test_good, n_per_defect, size, seed)
    try:
        if _is_made(folder, plan):
            return
        photograph = _photograph()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as staging:
            staged = Path(staging) / "parts"
            for split, defect_type, index in plan.images():
                _write_image(staged, photograph, plan, split, defect_type, index)
            (staged / MARKER).write_text(_marker(plan), encoding="utf-8")
            if folder.exists():
                folder.rmdir()
            staged.rename(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot make the demo's images there: {error}") from error


def _is_made(folder: Path, plan: _Plan) -> bool:
    """Return whether the folder holds this plan's images; anything else in it is refused."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    marker = folder / MARKER
    advice = "delete it or name another folder"
    if not marker.is_file():
        raise DataError(
            f"{folder}: expected a new or empty folder for the demo's images, got one with other "
            f"contents; {advice}"
        )
    if marker.read_text(encoding="utf-8", errors="replace") != _marker(plan):
        raise DataError(f"{folder}: holds demo images that were made with other values; {advice}")
    paths = [_image_path(*image) for image in plan.images()]
    paths += [
        _mask_path(defect_type, index)
        for _, defect_type, index in plan.images()
        if defect_type in PAINTERS
    ]
    missing = [path for path in paths if not (folder / path).is_file()]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of the demo's files are gone, the first is {missing[0]}; "
            f"{advice}"
        )
    return True


def _marker(plan: _Plan) -> str:
    facts: dict[str, Any] = {"made_by": "destseg demo", "photograph": PHOTOGRAPH, **asdict(plan)}
    return json.dumps(facts, indent=2) + "\n"


def _image_path(split: str, defect_type: str, index: int) -> Path:
    return Path(split, defect_type, f"{index:03d}.png")


def _mask_path(defect_type: str, index: int) -> Path:
    return Path("ground_truth", defect_type, f"{index:03d}_mask.png")


def _write_image(
    root: Path, photograph: Bytes, plan: _Plan, split: str, defect_type: str, index: int
) -> None:
    stream = ["train", "test", *PAINTERS].index(split if defect_type == "good" else defect_type)
    rng = np.random.default_rng([plan.seed, stream, index])
    part = _good_part(_region(photograph, split), plan.size, rng)
    if defect_type in PAINTERS:
        alpha, target = PAINTERS[defect_type](part, rng)
        part += alpha[..., None] * (target - part)
        _save(root / _mask_path(defect_type, index), np.where(alpha > VISIBLE, 255, 0))
    _save(root / _image_path(split, defect_type, index), part * rng.uniform(0.92, 1.08))


def _save(path: Path, image: npt.NDArray[Any]) -> None:
    write_image(path, np.clip(np.rint(image), 0, 255).astype(np.uint8))


def _photograph() -> Bytes:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise MissingExtraError("train", "the demo", "scikit-image")
    # Read as a file: skimage's own loader would import scipy and may go to the network.
    return read_image(Path(spec.origin).parent / "data" / PHOTOGRAPH)


def _region(photograph: Bytes, split: str) -> Bytes:
    border = round(TEST_FRACTION * photograph.shape[1])
    return photograph[:, :border] if split == "test" else photograph[:, border:]


def _good_part(region: Bytes, size: int, rng: np.random.Generator) -> Floats:
    """Return a crop at a random place, zoom and flip, float32 in [0, 255] [size, size, 3]."""
    height, width = region.shape[:2]
    zoom = rng.uniform(*WINDOW) / size
    left, top = (rng.uniform(0, side - 1 - zoom * (size - 1)) for side in (width, height))
    source = np.array([[zoom, 0, left], [0, zoom, top]])
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    part = cv2.warpAffine(
        region.astype(np.float32), source, (size, size), None, how, cv2.BORDER_REFLECT_101
    )
    for axis in (0, 1):
        if rng.random() < 0.5:
            part = np.flip(part, axis)
    return np.clip(part, 0, 255).astype(np.float32)


def _scratch(part: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw a thin bent line, lighter or darker than what it crosses, of changing strength."""
    size = part.shape[0]
    start = rng.uniform(0.15, 0.85, 2) * size
    length = rng.uniform(0.25, 0.7) * size
    t = np.linspace(0, 1, 40)
    angles = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.5) * t
    angles += 0.1 * np.sin(rng.uniform(4, 12) * t + rng.uniform(0, 6))
    steps = np.stack([np.cos(angles), np.sin(angles)], axis=1) * length / len(t)
    points = start + np.cumsum(steps, axis=0)
    strength = np.interp(t, np.linspace(0, 1, 6), rng.uniform(0.55, 1.0, 6))
    alpha = _blank(size)
    width = round(rng.uniform(1.0, 2.6) * OVERSAMPLING)
    for first, last, value in zip(points[:-1], points[1:], strength[1:], strict=True):
        cv2.line(alpha, _point(first), _point(last), float(value), width)
    shift = rng.choice([-1, 1]) * rng.uniform(30, 60)
    return _shrunk(alpha), np.clip(part + np.float32(shift), 0, 255)


def _stain(part: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw a soft-edged blob that darkens and slightly browns what shows through it."""
    size = part.shape[0]
    centre, radius = rng.uniform(0.2, 0.8, 2) * size, rng.uniform(0.06, 0.13) * size
    alpha = np.zeros((size, size), np.float32)
    for _ in range(rng.integers(3, 7)):
        drop = _blank(size)
        axes = rng.uniform(0.5, 1.1, 2) * radius
        middle = centre + rng.normal(0, 0.6, 2) * radius
        cv2.ellipse(drop, _point(middle), _point(axes), rng.uniform(0, 180), 0, 360, 1.0, -1)
        alpha += cv2.GaussianBlur(_shrunk(drop), (0, 0), rng.uniform(0.2, 0.4) * radius)
    alpha = np.minimum(1.5 * alpha / alpha.max(), 1.0)
    tint = rng.uniform(0.55, 0.75) * np.array([1.0, 0.97, 0.9], np.float32)
    return alpha, (part * tint).astype(np.float32)


def _hole(part: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw a dark irregular opening whose rim catches the light on one side."""
    size = part.shape[0]
    centre, radius = rng.uniform(0.15, 0.85, 2) * size, rng.uniform(0.03, 0.07) * size
    angles = (np.arange(12) + rng.uniform(-0.35, 0.35, 12)) * 2 * np.pi / 12
    spokes = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    distances = radius * rng.uniform(0.75, 1.3, (len(angles), 1))
    opening = _polygon(size, centre + spokes * distances)
    around = _polygon(size, centre + spokes * (distances + rng.uniform(1.5, 2.5)))
    y, x = np.mgrid[:size, :size] - centre[::-1, None, None]
    lit = np.cos(np.arctan2(y, x) - rng.uniform(0, 2 * np.pi)) > 0
    rim = (around - opening) * lit
    light, dark = part + np.float32(60), np.float32(rng.uniform(30, 60))
    target = np.where(opening[..., None] > 0.5, dark, np.clip(light, 0, 255))
    return np.maximum(opening, rim).astype(np.float32), target.astype(np.float32)


def _missing_piece(part: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw a corner or an edge that broke off: a jagged line, the flat table behind it."""
    size = part.shape[0]
    t = np.linspace(0, 1, 9)
    jags = np.where((t > 0) & (t < 1), rng.normal(0, 0.012, (2, 9)), 0)
    reach = rng.uniform(0.16, 0.3, 2)
    if rng.random() < 0.5:
        line = np.stack([reach[0] * t, reach[1] * (1 - t)]) + jags
        line = np.concatenate([line, np.zeros((2, 1))], axis=1)
    else:
        along = rng.uniform(0.05, 0.65) + reach[0] * t
        line = np.stack([along, 0.4 * reach[1] * np.sin(np.pi * t) ** 0.5]) + jags
    # Half a pixel outside, so that the piece is missing up to the very edge of the image.
    alpha = np.rot90(_polygon(size, line.T * size - 0.5), int(rng.integers(4)))
    return alpha, np.full_like(part, rng.uniform(140, 165))


PAINTERS: dict[str, Painter] = {
    "scratch": _scratch,
    "stain": _stain,
    "hole": _hole,
    "missing_piece": _missing_piece,
}


def _blank(size: int) -> Floats:
    return np.zeros((size * OVERSAMPLING, size * OVERSAMPLING), np.float32)


def _point(xy: npt.NDArray[np.floating[Any]]) -> tuple[int, int]:
    return round(xy[0] * OVERSAMPLING), round(xy[1] * OVERSAMPLING)


def _polygon(size: int, points: npt.NDArray[np.floating[Any]]) -> Floats:
    canvas = _blank(size)
    cv2.fillPoly(canvas, [np.rint(points * OVERSAMPLING).astype(np.int32)], 1.0)
    return _shrunk(canvas)


def _shrunk(canvas: Floats) -> Floats:
    side = canvas.shape[0] // OVERSAMPLING
    return cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
