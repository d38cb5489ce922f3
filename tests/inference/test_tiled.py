import itertools
import weakref

import cv2
import numpy as np
import pytest
from PIL import Image

from destseg.config import Settings
from destseg.data.images import resize
from destseg.data.roi import Roi
from destseg.data.tiling import plan
from destseg.errors import BundleError, ImageError
from destseg.inference.bundle import load_bundle, save_bundle, save_calibration
from destseg.inference.calibration import Calibration
from destseg.inference.predictor import Predictor
from destseg.inference.result import Failure, find_regions
from destseg.inference.scoring import image_score
from destseg.inference.tiled import tiled_map


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def brightness(images):
    return images[..., 0].astype(np.float32) / 255


def blurred(tiles):
    """Every pixel from its neighbourhood; beyond a tile's border there is nothing."""
    return np.stack(
        [
            cv2.blur(each[..., 0].astype(np.float32) / 255, (9, 9), borderType=cv2.BORDER_CONSTANT)
            for each in tiles
        ]
    )


@pytest.fixture
def tiled(make_predictor):
    def make(backend=brightness, **changes):
        return make_predictor(backend, tile=True, **changes)

    return make


# ---- the way of a large image


@pytest.mark.parametrize("size", [(64, 64), (90, 130), (200, 64), (257, 191)])
def test_an_image_keeps_its_pixels(size, tiled):
    image = noise(*size)
    result = tiled(score_fraction=0.01).predict(image)
    assert result.anomaly_map.shape == size
    assert result.heatmap is result.anomaly_map
    np.testing.assert_allclose(result.anomaly_map, image[..., 0] / 255.0, atol=1e-6)
    literal = np.sort(image[..., 0].ravel())[::-1][: max(1, round(0.01 * image[..., 0].size))]
    assert result.score == pytest.approx(literal.mean() / 255, abs=1e-6)
    assert result.regions == find_regions(result.anomaly_map, 0.3)


def test_a_smaller_image_is_scaled_up_until_a_tile_fits(tiled):
    image = noise(32, 48)
    result = tiled().predict(image)
    assert result.anomaly_map.shape == (64, 96)
    np.testing.assert_allclose(
        result.anomaly_map, resize(image, (64, 96))[..., 0] / 255.0, atol=1e-6
    )
    assert (result.height, result.width) == result.heatmap.shape == (32, 48)


def test_a_narrow_image_is_no_decompression_bomb(tiled):
    predictor = tiled(max_pixels=100_000)
    assert predictor.predict(noise(16, 250)).anomaly_map.shape == (64, 1000)
    answers = list(predictor.stream([noise(4, 2000), noise(64, 64)]))
    assert isinstance(answers[0], Failure)
    assert not isinstance(answers[1], Failure)
    with pytest.raises(ImageError, match=r"image 0: .*got 2000 x 4.*scaled up to 32000 x 64"):
        predictor.predict(noise(4, 2000))


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_tiles_go_through_the_backend_in_batches_of_the_models_size(batch_size, tiled):
    shapes = []

    def backend(tiles):
        shapes.append(tiles.shape)
        return brightness(tiles)

    image = noise(150, 200)
    result = tiled(backend, batch_size=batch_size).predict(image)
    count = len(plan(150, 200, 64, 0.25))
    assert sum(shape[0] for shape in shapes) == count == 12
    assert {shape[1:] for shape in shapes} == {(64, 64, 3)}
    assert max(shape[0] for shape in shapes) == min(batch_size, count)
    np.testing.assert_array_equal(result.anomaly_map, tiled().predict(image).anomaly_map)


def test_a_defect_scores_the_same_on_a_seam_as_in_the_middle(tiled):
    scores = {}
    for y, x in itertools.product((24, 48, 56, 64, 96, 120), repeat=2):
        image = np.zeros((256, 256, 3), np.uint8)
        image[y : y + 12, x : x + 12] = 255
        scores[y, x] = [
            tiled(backend, score_fraction=0.002).predict(image).score
            for backend in (brightness, blurred)
        ]
    exact, local = np.array(list(scores.values())).T
    np.testing.assert_allclose(exact, 131 / 131, atol=1e-6)
    assert np.ptp(local) < 0.02


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_tile_that_is_not_finite_is_refused(value, tiled):
    def broken(tiles):
        maps = brightness(tiles)
        maps[-1, -1, -1] = value
        return maps

    with pytest.raises(BundleError, match="finite"):
        tiled(broken).predict(noise(150, 150))


def test_one_image_is_read_at_a_time_and_let_go_of_before_it_is_scored(
    tiled, tmp_path, monkeypatch
):
    held, at_scoring = [], []
    read = Image.open

    def reading(path, **options):
        held.append(path)
        image = np.array(read(path))
        alive.append(weakref.ref(image))
        return image

    def scoring(*arguments):
        at_scoring.append([ref() is None for ref in alive])
        return image_score(*arguments)

    alive: list = []
    monkeypatch.setattr("destseg.inference.sources.read_image", reading)
    monkeypatch.setattr("destseg.inference.predictor.image_score", scoring)
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(noise(80, 80, number)).save(paths[-1])
    stream = tiled().stream(paths)
    for number in range(3):
        next(stream)
        assert len(held) == number + 1
        assert at_scoring[-1] == [True] * (number + 1)


def test_images_of_several_sizes_come_in_order(tiled, tmp_path):
    images = [noise(70 + 9 * k, 150 - 7 * k, k) for k in range(5)]
    results = tiled().predict(images)
    for result, image in zip(results, images, strict=True):
        assert result.anomaly_map.shape == image.shape[:2]
        assert result.score == tiled().predict(image).score


def test_overlays_of_tiled_results_have_the_images_size(tiled, tmp_path):
    for size in [(300, 64), (32, 48)]:
        image = noise(*size)
        Image.fromarray(image).save(tmp_path / "part.png")
        result = tiled().predict(tmp_path / "part.png")
        assert result.overlay().shape == image.shape


# ---- region of interest


def region(height=50, width=50):
    """The middle of the left half."""
    mask = np.zeros((height, width), bool)
    mask[height // 5 : -height // 5, width // 10 : width // 2] = True
    return Roi(mask)


def with_roi(folder, region, backend=brightness, **changes):
    settings = Settings.from_preset(image_size=64, **changes)
    saved = save_bundle(folder, settings, {}, {}, region)
    calibration = Calibration.fit(
        [0.3], [0.3], ["a"], settings, saved.weights_sha256, saved.roi_sha256
    )
    return Predictor(save_calibration(saved, calibration), backend, batch_size=2)


@pytest.mark.parametrize("tile", [False, True])
def test_only_the_region_is_scored(tile, tmp_path):
    roi = region()
    predictor = with_roi(tmp_path, roi, tile=tile, score_fraction=0.1)
    image = noise(150, 210) // 2
    size = (150, 210) if tile else (64, 64)
    inspected = roi.at(size)
    seen = resize(image, size)[..., 0].astype(np.float32) / 255
    result = predictor.predict(image)
    np.testing.assert_allclose(result.anomaly_map, np.where(inspected, seen, 0), atol=1e-6)
    values = np.sort(seen[inspected])[::-1]
    assert result.score == pytest.approx(values[: round(0.1 * len(values))].mean(), abs=1e-6)

    everywhere_else = image.copy()
    everywhere_else[~roi.at((150, 210))] = 255
    if tile:
        assert predictor.predict(everywhere_else).score == result.score
    bright = np.full((150, 210, 3), 255, np.uint8)
    (box,) = predictor.predict(bright).regions
    near = 0 if tile else 4  # in a small map, a pixel is several of the image's
    assert box.x >= 21 - near
    assert box.y >= 30 - near
    assert box.x + box.width <= 105 + near
    assert box.y + box.height <= 120 + near


def test_tiles_outside_of_the_region_are_not_run(tmp_path):
    seen = []

    def backend(tiles):
        seen.extend(tiles[:, 0, 0, :2].tolist())
        return brightness(tiles)

    image = np.zeros((256, 512, 3), np.uint8)
    image[..., 0], image[..., 1] = np.indices((256, 512)) // 2
    predictor = with_roi(tmp_path, region(), backend, tile=True)
    predictor.predict(image)
    inspected = region().at((256, 512))
    wanted = [each for each in plan(256, 512, 64, 0.25) if inspected[each.window].any()]
    assert seen == [[each.y // 2, each.x // 2] for each in wanted]
    assert len(wanted) < 0.6 * len(plan(256, 512, 64, 0.25))


def test_the_region_is_in_the_bundle_and_loading_needs_nothing_else(tmp_path):
    roi = region()
    with_roi(tmp_path, roi, roi="/nowhere/original.png")
    loaded = load_bundle(tmp_path)
    np.testing.assert_array_equal(loaded.roi().mask, roi.mask)


def test_a_region_that_was_changed_lost_or_swapped_is_refused(tmp_path):
    with_roi(tmp_path, region())
    path = tmp_path / "roi.png"
    content = path.read_bytes()
    path.write_bytes(region(40, 60).to_png())
    with pytest.raises(BundleError, match=r"roi\.png: expected SHA-256"):
        load_bundle(tmp_path)
    path.unlink()
    with pytest.raises(BundleError, match=r"roi\.png"):
        load_bundle(tmp_path)
    path.write_bytes(content)
    load_bundle(tmp_path)
    # Taken out of the manifest, the threshold would be one of whole images.
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace("roi_sha256", "other"))
    with pytest.raises(BundleError, match="roi_sha256: calibrated for"):
        load_bundle(tmp_path)


def test_a_bundle_that_is_written_again_without_a_region_has_none(tmp_path):
    with_roi(tmp_path, region())
    with_roi(tmp_path, None)
    assert load_bundle(tmp_path).roi() is None
    assert not (tmp_path / "roi.png").exists()


def test_maps_of_the_backend_are_not_written_to(tmp_path):
    answer = np.full((1, 64, 64), 0.5, np.float32)
    answer.setflags(write=False)
    predictor = with_roi(tmp_path, region(), lambda _: answer)
    assert predictor.predict(noise(64, 64)).anomaly_map.min() == 0


# ---- the function itself


def test_what_lies_outside_may_be_anything_but_inside_it_is_exact():
    image = noise(130, 130)
    inspected = np.zeros((130, 130), bool)
    inspected[3, 127] = True
    calls = []

    def backend(tiles):
        calls.append(len(tiles))
        return brightness(tiles)

    merged = tiled_map(image, backend, tile=64, overlap=0.5, batch_size=4, inspected=inspected)
    assert merged[3, 127] == pytest.approx(image[3, 127, 0] / 255, abs=1e-6)
    assert sum(calls) < len(plan(130, 130, 64, 0.5))
