import numpy as np
import pytest
from PIL import Image

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
    return tiny_settings.replace(image_size=256, rotation=0, quarter_turns=False)


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 3), (4, 2, 6), (5, 3, 6)])
def test_two_images_a_row(parts, settings, count, rows, columns):
    sheet = preview(parts, settings, count)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (GAP + HEADING + rows * (CELL + GAP), GAP + columns * (CELL + GAP), 3)
    assert (sheet[:HEADING] < 128).any()  # captions


def test_each_image_is_beside_its_anomaly_and_mask(parts, settings):
    originals = {
        path.name: np.array(Image.open(path).resize((256, 256), Image.Resampling.BILINEAR))
        for path in parts.glob("*.png")
    }
    shown = []
    for row in cells(preview(parts, settings, 6)):
        for good, anomalous, mask in (row[:3], row[3:]):
            shown += [name for name, image in originals.items() if np.array_equal(image, good)]
            assert set(np.unique(mask)) <= {0, 255}
            hit = mask[..., 0] == 255
            assert np.array_equal(good[~hit], anomalous[~hit])
            assert not hit.any() or (good[hit] != anomalous[hit]).mean() > 0.9
    assert len(set(shown)) == 6


def test_the_seed_chooses_images_and_anomalies(parts, settings):
    first = preview(parts, settings, 4)
    assert np.array_equal(first, preview(parts, settings, 4))
    assert not np.array_equal(first, preview(parts, settings.replace(seed=1), 4))


def test_more_images_than_there_are(parts, settings):
    assert len(cells(preview(parts, settings, 14))) == 7


def test_images_that_cannot_be_read(tmp_path, settings):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png"):
        preview(tmp_path, settings, 2)
    with pytest.raises(DataError):
        preview(tmp_path, settings.replace(skip_unreadable=True), 2)
