import numpy as np
import pytest
from PIL import Image

from destseg.export.int8 import good_and_damaged


@pytest.mark.parametrize("tile", [False, True])
def test_pictures_to_measure_ranges_on_are_of_the_networks_size(tile, tiny_settings, tmp_path):
    paths = []
    for number, size in enumerate([(70, 90), (64, 64), (40, 50), (200, 80)]):
        paths.append(tmp_path / f"{number}.png")
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(paths[-1])
    made, masks = good_and_damaged(paths, tiny_settings.replace(tile=tile), 4, seed=0)
    assert made.shape == (4, 64, 64, 3)
    assert not masks[::2].any()
    assert masks[1::2].any()
    first = np.array(Image.open(paths[0]))
    if tile:
        windows = np.lib.stride_tricks.sliding_window_view(first[..., 0], (64, 64))
        assert (windows == made[0, ..., 0]).all(axis=(2, 3)).any()
    else:
        small = Image.fromarray(first).resize((64, 64), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(made[0], np.array(small))
