"""A model of four lines, images for it and a port, so that nothing here needs torch."""

import contextlib
import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from destseg.config import Settings
from destseg.inference.bundle import Bundle
from destseg.inference.calibration import Calibration
from destseg.inference.predictor import Predictor


def brightness(images: np.ndarray) -> np.ndarray:
    """The map of an image is its red channel, of 0 to 1."""
    return images[..., 0].astype(np.float32) / 255


def make_predictor(
    backend: Any = brightness, *, batch_size: int = 4, weights: str = "abc", **changes: Any
) -> Predictor:
    """A predictor whose maps are the red channel: threshold 0.3 for score and pixels."""
    settings = Settings.from_preset(**{"image_size": 64, "max_false_alarm_rate": 0.25, **changes})
    scores = (0.1, 0.2, 0.3)
    calibration = Calibration.fit(scores, scores, ["1", "2", "3"], settings, weights)
    bundle = Bundle(Path("nowhere"), settings, weights, calibration, {})
    return Predictor(bundle, backend, batch_size=batch_size)


def image(red: int, *, side: int = 64, kind: str = "PNG") -> bytes:
    """The file of an image of one red; its score is red / 255."""
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[..., 0] = red
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@contextlib.contextmanager
def listening(app) -> Iterator[int]:
    """Serve an application on a free port."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)
