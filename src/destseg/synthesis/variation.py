"""Changes that are no defect: another light, another lamp, another state of the camera."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from destseg.config import UNCHANGED, VariationSettings, flag
from destseg.data.choice import evenly
from destseg.synthesis.textures import Images

_LOOKED_AT = 64
_GRAINS = 2**20
_ROUNDING = 1e-9  # images that are all alike differ by this, when they are averaged
_TWO_CAMERAS = 0.5  # good images whose sharpness varies by so much are as of several cameras
_OFTEN = 1 / 3  # each of the camera's changes: most images have one, some all, some none


@dataclass(frozen=True)
class Variation:
    """What becomes of an image.

    Attributes:
        table: what each value of each colour becomes in another light, uint8 [256, 3].
        down, right: change of the light from one border to the other, as a fraction.
        blur: sigma in pixels.
        noise: standard deviation in grey levels.
        colours: whether each colour has noise of its own.
        start: where the noise begins in a long row of it.
        quality: of the JPEG it is stored as; 100 is not stored as one.
    """

    table: NDArray[np.uint8]
    down: float
    right: float
    blur: float
    noise: float
    colours: bool
    start: int
    quality: int

    @property
    def camera(self) -> bool:
        """Whether the camera changes anything."""
        return self.blur > 0 or self.noise > 0 or self.quality < 100


def beyond_their_own(settings: VariationSettings, images: Images) -> VariationSettings:
    """Return settings less what good images vary by among themselves, from which it is learned.

    Where the light changes from part to part already, more of it would only teach that brightness
    means nothing (measured: magnetic tiles lose a third of their pixel AP), and where one image is
    sharp and the next is not, that fine detail means nothing (a sixth).  What is taken off is two
    standard deviations of a logarithm: for light and white balance of the images' means, of all
    colours and of each; for the ramp of the ratio of the light at two borders; for noise, focus,
    JPEG and place of the sharpness, and nothing is left of them where that is a half.  (What is
    moved by a part of a pixel is blurred by that: the place alone cost the tiles a quarter.)

    Args:
        settings: what may change on the line.
        images: good parts, uint8 RGB [h, w, 3]; some of them are looked at, spread over all.
    """
    if settings == UNCHANGED:
        return settings
    looks = [_look(image) for image in _some(images)]
    colours = np.array([look.colours for look in looks])
    means = np.log(colours + 1)  # + 1: black has one
    light = means.mean(1, keepdims=True)
    light_varies = 2 * float(light.std())
    colour_varies = 2 * float((means - light).std(0).max())
    ramp_varies = 2 * float(np.std([(look.down, look.right) for look in looks], axis=0).max())
    sharpness_varies = 2 * float(np.std([look.sharpness for look in looks]))
    left = max(0.0, 1 - sharpness_varies / _TWO_CAMERAS)
    return dataclasses.replace(
        settings,
        light=max(0.0, settings.light - light_varies),
        white_balance=0.0 if _grey(colours) else max(0.0, settings.white_balance - colour_varies),
        ramp=max(0.0, settings.ramp - ramp_varies),
        noise=settings.noise * left,
        defocus=settings.defocus * left,
        jpeg_quality=100 - round((100 - settings.jpeg_quality) * left),
        shift=settings.shift * left,
    )


class _Look(NamedTuple):
    """What an image is like.

    Attributes:
        colours: means of its colours, [3].
        down, right: how much more light there is at one border than at the other, a logarithm.
        sharpness: how strong its finest detail is, a logarithm.
    """

    colours: NDArray[np.float64]
    down: float
    right: float
    sharpness: float


def _look(image: NDArray[np.uint8]) -> _Look:
    grey = image.mean(2, dtype=np.float32)
    sharpness = math.log(float(cv2.Laplacian(grey, cv2.CV_32F).std()) + 1)
    return _Look(image.mean((0, 1)), _gradient(grey), _gradient(grey.T), sharpness)


def _gradient(grey: NDArray[np.float32]) -> float:
    """Return the logarithm of the light at the last row as a multiple of that at the first."""
    first, last = grey[: (len(grey) + 1) // 2], grey[len(grey) // 2 :]
    # Between the middles of two halves lies half of the way.
    return 2 * math.log((float(last.mean()) + 1) / (float(first.mean()) + 1))


def taken_off(asked: VariationSettings, given: VariationSettings, images: Images) -> str | None:
    """Return in words what ``beyond_their_own`` took off of what images vary by; ``None``: nothing.

    That grey images get no colour takes nothing off.
    """
    # Only then may they be grey, and looking at the images again takes as long as the first time.
    if given.white_balance == 0 < asked.white_balance and _grey(_colours(images)):
        asked = dataclasses.replace(asked, white_balance=given.white_balance)
    less = [
        f"{flag(name)} {round(left, 3):g} instead of {value:g}"
        for name, value in dataclasses.asdict(asked).items()
        if abs(value - (left := getattr(given, name))) > _ROUNDING
    ]
    if not less:
        return None
    return f"the good images vary by themselves already, so less is added: {', '.join(less)}"


def _colours(images: Images) -> NDArray[np.float64]:
    """Return the mean colours of some images: [n, 3]."""
    return np.array([image.mean((0, 1)) for image in _some(images)])


def _some(images: Images) -> Iterator[NDArray[np.uint8]]:
    """Yield those that are looked at, spread over all."""
    return (images[k] for k in evenly(range(len(images)), _LOOKED_AT))


def _grey(colours: NDArray[np.float64]) -> bool:
    """Whether they are of a grey camera, whose images have no colour to change."""
    # Not by the distance from their mean: that of three equal numbers can be another in its last
    # bit.
    return not np.ptp(colours, axis=1).any()


def draw_variation(generator: np.random.Generator, settings: VariationSettings) -> Variation | None:
    """Draw what becomes of an image; ``None``, with nothing drawn, where nothing may change."""
    light, white, ramp = settings.light, settings.white_balance, settings.ramp
    noise, defocus, quality = settings.noise, settings.defocus, settings.jpeg_quality
    if not (light or white or ramp or noise or defocus) and quality == 100:
        return None
    factor, gamma = np.exp(generator.uniform(-light, light, 2))
    colours = np.exp(generator.uniform(-white, white, 3))
    values = 255 * factor * colours * (np.arange(256)[:, None] / 255) ** gamma
    down, right = generator.uniform(-ramp, ramp, 2).tolist()
    blurred, noisy, stored, in_colour = generator.random(4) < (_OFTEN, _OFTEN, _OFTEN, 0.5)
    strengths = generator.random(3)
    return Variation(
        table=np.rint(values.clip(0, 255)).astype(np.uint8),
        down=down,
        right=right,
        blur=float(strengths[0] * defocus * blurred),
        noise=float(strengths[1] * noise * noisy),
        colours=bool(in_colour),
        start=int(generator.integers(_GRAINS)),
        quality=round(100 - strengths[2] * (100 - quality)) if stored else 100,
    )


def lit(image: NDArray[np.uint8], variation: Variation | None) -> NDArray[np.uint8]:
    """Return an image in another light.

    Args:
        image: uint8 [h, w, 3].
        variation: as ``draw_variation`` gives it; ``None`` changes nothing.
    """
    if variation is None:
        return image
    image = np.asarray(cv2.LUT(np.ascontiguousarray(image), variation.table[None]), np.uint8)
    if variation.down or variation.right:
        image = _ramp(image, variation.down, variation.right)
    return image


def photographed(image: NDArray[np.uint8], variation: Variation) -> NDArray[np.uint8]:
    """Return what the camera makes of an image, in its order: lens, sensor, file.

    It comes after the anomalies: on the line they go through the same lens, and one without the
    image's noise would be told by that.

    Args:
        image: uint8 [h, w, 3].
        variation: as ``draw_variation`` gives it.
    """
    if variation.blur:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), variation.blur), np.uint8)
    if variation.noise:
        shape = image.shape if variation.colours else (*image.shape[:2], 1)
        image = _rounded(image + np.float32(variation.noise) * _grain(shape, variation.start))
    if variation.quality < 100:
        image = _as_jpeg(image, variation.quality)
    return image


def _grain(shape: tuple[int, ...], start: int) -> NDArray[np.float32]:
    """Return noise of a standard deviation of 1: a piece of one row, as drawing takes longest."""
    return np.resize(_row_of_noise()[start:], shape)


@functools.cache
def _row_of_noise() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(2 * _GRAINS, np.float32)


def _ramp(image: NDArray[np.uint8], down: float, right: float) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    columns = 1 + right * np.linspace(-0.5, 0.5, width, dtype=np.float32)
    rows = 1 + down * np.linspace(-0.5, 0.5, height, dtype=np.float32)
    return _rounded(image.astype(np.float32) * (rows[:, None] * columns)[..., None])


def _rounded(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.asarray(np.rint(values.clip(0, 255)), np.uint8)


def _as_jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    # OpenCV takes red for blue; they come back as they were, only weighted the other way round.
    coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
