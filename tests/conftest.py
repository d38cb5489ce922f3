"""What tests of several folders share: a few small pictures, and settings that train in a second.

The folders are made once a worker; a test that changes pictures makes its own with
``write_pictures``.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from destseg.config import Settings

TINY_NETWORK = "test_efficientnet"  # timm's own test network: 82,300 weights, strides 4 to 32


def write_pictures(folder: Path, count: int, *, side: int = 64, seed: int = 0) -> Path:
    """Write parts: a bright disc on a darker ground, each a little different, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - side / 2
    for number in range(count):
        centre = random.uniform(-3, 3, 2)
        disc = np.hypot(y - centre[0], x - centre[1]) < side / 3
        colour = np.where(disc[..., None], (200, 190, 170), (60, 70, 80))
        noisy = colour + random.normal(0, 6, (side, side, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 good pictures of 64 x 64; not to be written to."""
    return write_pictures(tmp_path_factory.mktemp("parts"), 12)


@pytest.fixture(scope="session")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 5 textures; not to be written to."""
    folder = tmp_path_factory.mktemp("textures")
    random = np.random.default_rng(1)
    for number in range(5):
        pixels = random.integers(0, 256, (80, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_settings(textures: Path) -> Settings:
    """The preset fast with tiny networks, 64 px and three steps a phase."""
    return Settings.from_preset(
        "fast",
        image_size=64,
        held_out_minimum=3,
        rotation="turn",
        teacher=TINY_NETWORK,
        student_width=8,
        head_width=8,
        textures=str(textures),
        batch_size=4,
        denoise_steps=3,
        segment_steps=3,
        warmup_steps=2,
        log_every=1,
        device="cpu",
    )


@pytest.fixture(scope="session")
def tiny_teacher_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with seeded random weights of the whole tiny network, for ``teacher_weights``."""
    import safetensors.torch
    import timm
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(5)
        state = timm.create_model(TINY_NETWORK).state_dict()
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    safetensors.torch.save_file(state, path)
    return path
