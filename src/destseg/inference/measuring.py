"""Maps and scores of images all of which are needed."""

from __future__ import annotations

from collections.abc import Iterator

from destseg.inference.predictor import Measurement, Predictor
from destseg.inference.result import Failure
from destseg.inference.sources import Images


def all_measured(predictor: Predictor, images: Images) -> Iterator[Measurement]:
    """Yield what ``Predictor.measure`` does.

    Raises:
        ImageError: at the first image that cannot be read.
    """
    for measured in predictor.measure(images):
        if isinstance(measured, Failure):
            raise measured.error
        yield measured
