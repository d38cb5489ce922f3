"""Drawings of the report as SVG: curves of detection, and the map of blind spots.

They are told apart by place, words and patterns, not by colour.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from destseg.data.images import resize
from destseg.pages.one_file import escaped, image_uri

_WIDTH, _HEIGHT = 300, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 10, 10, 34
_LONGEST = 720  # of the image behind the map, in pixels


def curve_chart(row: Mapping[str, Any], title: str, unit: float | None) -> str:
    """Return a figure of a curve with its bounds, and the fractions that were found.

    Args:
        row: a family at a contrast, as plain values.
        title: of the figure.
        unit: millimetres of a pixel; ``None`` labels pixels.
    """
    sizes, at = row["sizes"], row["at"]
    low, high = math.log(sizes[0]), math.log(sizes[-1])

    def x(size: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (math.log(size) - low) / (high - low)

    def y(probability: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * probability

    def line(values: Sequence[float]) -> str:
        return " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(at, values, strict=True))

    band = line(row["upper"]) + " " + " ".join(reversed(line(row["lower"]).split()))
    marks = [f'<polygon class="band" points="{band}"/>']
    for value in (0, 0.5, 0.9, 1):
        style = "aim" if value == 0.9 else "grid"
        marks.append(
            f'<line class="{style}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" '
            f'y2="{y(value):.1f}"/><text x="{_LEFT - 5}" y="{y(value) + 4:.1f}" '
            f'text-anchor="end">{100 * value:.0f}</text>'
        )
    for size in sizes:
        shown = size if unit is None else size * unit
        marks.append(
            f'<text x="{x(size):.1f}" y="{y(0) + 14:.1f}" text-anchor="middle">{shown:.2g}</text>'
        )
    for bound in ("lower", "upper"):
        marks.append(f'<polyline class="bound" points="{line(row[bound])}"/>')
    marks.append(f'<polyline class="curve" points="{line(row["pod"])}"/>')
    for size, hits, trials in zip(sizes, row["hits"], row["trials"], strict=True):
        marks.append(
            f'<circle class="tried" cx="{x(size):.1f}" cy="{y(hits / trials):.1f}" r="3"/>'
        )
    if row["a90_95"] is not None:
        place = x(row["a90_95"])
        marks.append(
            f'<line class="limit" x1="{place:.1f}" x2="{place:.1f}" y1="{y(0.9):.1f}" '
            f'y2="{y(0):.1f}"/>'
        )
    name = "size in pixels" if unit is None else "size in mm"
    marks.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">'
        f"{name}</text>"
    )
    return (
        f"<figure><figcaption>{escaped(title)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escaped(title)}: per cent found over size">{"".join(marks)}</svg></figure>'
    )


def blind_map(values: Mapping[str, Any], image: NDArray[np.uint8]) -> str:
    """Return a figure of the good image with the number found in each field, the blind ones framed.

    Args:
        values: of the qualification.
        image: uint8 RGB [h, w, 3].
    """
    spots = values["blind_spots"]
    rows, columns = len(spots["hits"]), len(spots["hits"][0])
    height, width = image.shape[:2]
    # As wide as the page, or as high as half of a printed one.
    scale = min(_LONGEST / width, 520 / height)
    tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
    blind = {tuple(field) for field in spots["blind"]}
    marks = []
    for row in range(rows):
        for column in range(columns):
            hits, trials = spots["hits"][row][column], spots["trials"][row][column]
            left, top = column * wide / columns, row * tall / rows
            box = f'x="{left:.1f}" y="{top:.1f}" width="{wide / columns:.1f}"'
            box += f' height="{tall / rows:.1f}"'
            style = "blind" if (row, column) in blind else "field"
            shade = 0 if not trials else 0.75 * (1 - hits / trials)
            middle = f'x="{left + wide / columns / 2:.1f}" y="{top + tall / rows / 2 + 4:.1f}"'
            text = f"{hits}/{trials}" if trials else "–"
            marks.append(
                f'<rect class="missed" {box} fill-opacity="{shade:.2f}"/>'
                f'<rect class="{style}" {box}/>'
                f'<text class="count" {middle} text-anchor="middle">{text}</text>'
            )
    return (
        f'<svg class="map" viewBox="0 0 {wide} {tall}" width="{wide}" role="img" '
        'aria-label="Fields of the part with the reference defects found in each">'
        f'<image href="{_uri(resize(image, (tall, wide)))}" width="{wide}" height="{tall}"/>'
        f"{''.join(marks)}</svg>"
    )


def family_image(image: NDArray[np.uint8]) -> str:
    """Return an example of a drawn defect as an image element's address."""
    return _uri(image)


def _uri(image: NDArray[np.uint8]) -> str:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=85)
    return image_uri("jpeg", encoded.getvalue())
