import importlib.util
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from destseg.errors import DataError, MissingExtraError
from destseg.synthesis.textures import as_grey_as, load_textures

DTD = Path(__file__).resolve().parents[3] / "shared" / "data" / "dtd"
MAX_PIXELS = 1_000_000
COLOURS = [(k * 20, 255 - k * 20, 7 * k) for k in range(10)]


@pytest.fixture
def folder(tmp_path):
    """Ten plain images of known colours, at two depths and in several sizes and formats."""
    for k, colour in enumerate(COLOURS):
        path = tmp_path / f"kind{k // 5}" / f"{k}.{'png' if k % 2 else 'bmp'}"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (20 + k, 31), colour).save(path)
    return tmp_path


def colours(textures):
    assert torch.equal(textures.amax((2, 3)), textures.amin((2, 3)))
    return [tuple(one) for one in textures[:, :, 0, 0].tolist()]


def test_a_folder_is_loaded_in_order_at_the_size_asked_for(folder):
    textures = load_textures(str(folder), (32, 32), max_pixels=MAX_PIXELS)
    assert textures.dtype == torch.uint8
    assert textures.shape == (10, 3, 32, 32)
    assert textures.is_contiguous()
    assert colours(textures) == COLOURS


def test_channels_and_axes_are_those_of_the_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    textures = load_textures(str(tmp_path), (16, 16), max_pixels=MAX_PIXELS)
    assert np.array_equal(textures[0].permute(1, 2, 0).numpy(), pixels)


def test_unreadable_textures_are_left_out_with_a_warning(folder, caplog):
    (folder / "kind0" / "3.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING, "destseg"):
        textures = load_textures(str(folder), (32, 32), max_pixels=MAX_PIXELS)
    assert colours(textures) == [colour for k, colour in enumerate(COLOURS) if k != 3]
    assert [record.name for record in caplog.records] == ["destseg"]
    assert str(folder / "kind0" / "3.png") in caplog.text


def test_too_large_textures_are_left_out(folder):
    textures = load_textures(str(folder), (32, 32), max_pixels=25 * 31)
    assert colours(textures) == COLOURS[:6]


def test_nothing_readable_is_an_error(folder):
    with pytest.raises(DataError, match="10 files of which none can be read"):
        load_textures(str(folder), (32, 32), max_pixels=1)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        load_textures(str(tmp_path / "nowhere"), (32, 32), max_pixels=MAX_PIXELS)


@pytest.mark.parametrize(
    ("room", "expected"),
    [(10, range(10)), (9.9, [0, 1, 2, 3, 4, 5, 6, 7, 8]), (5, range(0, 10, 2)), (0.5, [0])],
)
def test_only_as_many_as_fit_evenly_spaced(folder, caplog, room, expected):
    with caplog.at_level(logging.INFO, "destseg"):
        textures = load_textures(
            str(folder), (32, 32), max_pixels=MAX_PIXELS, max_bytes=int(room * 3 * 32 * 32)
        )
    assert colours(textures) == [COLOURS[k] for k in expected]
    assert (f"{len(textures)} of 10 textures are used" in caplog.text) == (len(textures) < 10)


def test_builtin_crops_are_many_lively_and_always_the_same():
    textures = load_textures("builtin", (64, 64), max_pixels=MAX_PIXELS)
    assert textures.dtype == torch.uint8
    assert textures.shape[1:] == (3, 64, 64)
    assert 200 <= len(textures) <= 300
    assert len(torch.unique(textures.flatten(1), dim=0)) == len(textures)
    assert torch.equal(textures, load_textures("builtin", (64, 64), max_pixels=MAX_PIXELS))
    spread = textures.float().std((1, 2, 3))
    assert spread.median() > 25
    assert (spread < 5).float().mean() < 0.05
    grey = (textures[:, 0] == textures[:, 1]).flatten(1).all(1)
    assert 0.2 < grey.float().mean() < 0.8


def test_builtin_crops_show_the_same_at_every_size():
    large = load_textures("builtin", (128, 128), max_pixels=MAX_PIXELS).float()
    small = load_textures("builtin", (32, 32), max_pixels=MAX_PIXELS).float()
    shrunk = torch.nn.functional.avg_pool2d(large, 4)
    assert (shrunk - small).abs().mean((1, 2, 3)).max() < 12
    assert (shrunk - small.roll(1, 0)).abs().mean((1, 2, 3)).median() > 30


def test_builtin_crops_that_do_not_fit_are_thinned_over_all_photographs():
    every = load_textures("builtin", (64, 64), max_pixels=MAX_PIXELS)
    few = load_textures("builtin", (64, 64), max_pixels=MAX_PIXELS, max_bytes=17 * 3 * 64 * 64)
    assert torch.equal(few, every[::15])


def test_builtin_reads_installed_files_and_neither_imports_nor_downloads(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] in ("skimage", "pooch")]:
        monkeypatch.delitem(sys.modules, name)
    load_textures("builtin", (32, 32), max_pixels=MAX_PIXELS)
    assert not {"skimage", "pooch"} & set(sys.modules)


def test_builtin_without_scikit_image_names_the_extra(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "skimage" else found(name)
    )
    with pytest.raises(
        MissingExtraError, match=r"extra 'train' with: pip install .*'scikit-image>="
    ):
        load_textures("builtin", (32, 32), max_pixels=MAX_PIXELS)


@pytest.mark.data
def test_dtd_is_loaded_from_its_own_layout():
    if not DTD.is_dir():
        pytest.skip(f"no DTD at {DTD}")
    # Room for 40 of the 1,200, so that all ten classes come once in a short test.
    textures = load_textures(str(DTD), (64, 64), max_pixels=MAX_PIXELS, max_bytes=40 * 3 * 64 * 64)
    assert textures.shape == (40, 3, 64, 64)
    assert textures.float().std((1, 2, 3)).median() > 20
    assert len(torch.unique(textures.flatten(1), dim=0)) == 40


# ---- the category's colours


def coloured(count=5, side=8):
    return torch.randint(
        0,
        256,
        (count, 3, side, side),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )


def grey_parts(count=40):
    random = np.random.default_rng(0)
    return [np.repeat(random.integers(0, 256, (9, 7, 1), np.uint8), 3, 2) for _ in range(count)]


def test_textures_for_grey_parts_are_grey_as_pillow_makes_them():
    textures = coloured()
    made = as_grey_as(textures, grey_parts())
    assert made.dtype == torch.uint8
    for texture, grey in zip(textures, made, strict=True):
        assert (grey == grey[:1]).all()
        by_pillow = Image.fromarray(texture.permute(1, 2, 0).numpy()).convert("L")
        assert np.abs(grey[0].numpy().astype(int) - np.asarray(by_pillow)).max() <= 1


def test_textures_for_coloured_parts_stay_as_they_are():
    parts = grey_parts()
    parts[0][3, 3] = (10, 10, 11)
    assert torch.equal(as_grey_as(coloured(), parts), coloured())


def test_batches_of_grey_parts_are_grey():
    from destseg.config import SynthesisSettings
    from destseg.synthesis.batches import Batches

    batches = Batches(
        [np.full((32, 32, 3), level, np.uint8) for level in range(20)],
        coloured(side=32),
        rotation=5.0,
        quarter_turns=True,
        synthesis=SynthesisSettings(perlin_units="pixels", perlin_scale=(8, 16)),
        batch_size=4,
        seed=0,
        device=torch.device("cpu"),
    )
    _, anomalous, masks, _ = batches.make("denoise", 0)
    assert masks.any()
    assert torch.equal(anomalous, anomalous[:, :1].expand_as(anomalous))
