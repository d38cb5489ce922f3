import dataclasses

import numpy as np
import pytest
from PIL import Image

from destseg.config import UNCHANGED
from destseg.errors import DataError
from destseg.synthesis.preview import preview

GAP, CELL, HEADING = 8, 256, 32


def cells(sheet):
    """Cut a sheet back into its rows of cells."""
    step = CELL + GAP
    return [
        [sheet[top : top + CELL, left : left + CELL] for left in range(GAP, sheet.shape[1], step)]
        for top in range(GAP + HEADING, sheet.shape[0], step)
    ]


@pytest.fixture
def settings(tiny_settings):
    still = {"rotation": 0, "quarter_turns": False, **dataclasses.asdict(UNCHANGED)}
    return tiny_settings.replace(image_size=256, **still)


@pytest.mark.parametrize("count", [1, 5])
def test_an_image_a_row(parts, settings, count):
    sheet = preview(parts, settings, count)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (GAP + HEADING + count * (CELL + GAP), GAP + 4 * (CELL + GAP), 3)
    assert (sheet[:HEADING] < 128).any()  # captions


def test_each_image_is_beside_its_anomaly_and_mask(parts, settings):
    originals = {
        path.name: np.array(Image.open(path).resize((256, 256), Image.Resampling.BILINEAR))
        for path in parts.glob("*.png")
    }
    shown = []
    for file, good, anomalous, mask in cells(preview(parts, settings, 6)):
        shown += [name for name, image in originals.items() if np.array_equal(image, good)]
        assert np.array_equal(file, good)  # both are enlarged from 64 pixels
        assert set(np.unique(mask)) <= {0, 255}
        hit = mask[..., 0] == 255
        assert np.array_equal(good[~hit], anomalous[~hit])
        assert not hit.any() or (good[hit] != anomalous[hit]).mean() > 0.9
    assert len(set(shown)) == 6


def test_what_shrinking_loses_can_be_seen(tmp_path, settings):
    """Of stripes a pixel wide the file's column keeps more than what the networks are shown."""
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    sheet = preview(tmp_path, settings, 1)
    assert sheet.shape == (GAP + 64 + 512 + GAP, GAP + 4 * (512 + GAP), 3)
    top = GAP + 64
    file, seen = (sheet[top : top + 512, x : x + 512] for x in (GAP, 2 * GAP + 512))
    assert np.array_equal(file, stripes)
    assert seen.std() < 10


def test_the_seed_chooses_images_and_anomalies(parts, settings):
    first = preview(parts, settings, 4)
    assert np.array_equal(first, preview(parts, settings, 4))
    assert not np.array_equal(first, preview(parts, settings.replace(seed=1), 4))


def test_more_images_than_there_are(parts, settings):
    assert len(cells(preview(parts, settings, 14))) == 14


def test_images_that_cannot_be_read(tmp_path, settings):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png"):
        preview(tmp_path, settings, 2)
    with pytest.raises(DataError):
        preview(tmp_path, settings.replace(skip_unreadable=True), 2)


def test_known_defects_are_shown_where_they_are_and_laid_onto_good_images(
    parts, tmp_path, settings
):
    folder = tmp_path / "bad"
    (folder / "hole").mkdir(parents=True)
    image = np.array(Image.open(parts / "000.png"))
    image[28:36, 28:36] = (0, 255, 0)
    Image.fromarray(image).save(folder / "hole/0.png")
    with pytest.raises(DataError, match="expected at least one image with a mask"):
        preview(parts, settings, 2, folder)
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[28:36, 28:36] = 255
    Image.fromarray(mask).save(folder / "hole/0_mask.png")
    sheet = preview(parts, settings, 6, folder)
    assert sheet.shape == (GAP + HEADING + 6 * (CELL + GAP), GAP + 4 * (CELL + GAP), 3)
    for own, seen, anomalous, mask in cells(sheet):
        assert (own[..., 0].astype(int) - own[..., 1]).max() > 80  # the outline
        hit = mask[..., 0] == 255
        assert hit.any()
        inner = anomalous[hit].astype(int)
        assert np.median(inner[:, 1] - inner[:, 0]) > 60  # green
        assert np.array_equal(seen, anomalous) or not hit.all()
