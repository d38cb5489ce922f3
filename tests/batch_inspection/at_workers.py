"""What inspects in the tests' worker processes: a backend of one line, and a deadly image."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from destseg.batch_inspection.inspector import Inspector

DEADLY = b"this image ends the process"


def brightness(images: np.ndarray) -> np.ndarray:
    """The map of an image is its red channel, of 0 to 1."""
    return images[..., 0].astype(np.float32) / 255


def prepare() -> None:
    """Stand in for opening a backend, and for a decoder that an image makes crash."""
    from destseg.inference import predictor, sources

    decode = sources.decode_image

    def decode_or_die(content: bytes, *words: Any, **named: Any) -> np.ndarray:
        if content == DEADLY:
            os._exit(11)
        return decode(content, *words, **named)

    predictor.open_backend = lambda *_: brightness
    sources.decode_image = decode_or_die


class PreparedInspector(Inspector):
    """The inspector in a process that was prepared; Ray's own processes need not be."""

    def __init__(self, *words: Any) -> None:
        prepare()
        super().__init__(*words)
