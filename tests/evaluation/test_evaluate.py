from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from destseg.config import Settings
from destseg.data.images import resize
from destseg.data.samples import Sample, test_samples
from destseg.errors import DataError, ImageError
from destseg.evaluation.evaluate import evaluate, mask_of
from destseg.inference.bundle import Bundle
from destseg.inference.predictor import Predictor
from destseg.inference.scoring import Calibration, image_score

SIDE = 64
KINDS = {"good": 5, "hole": 3, "scratch": 4}


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


@pytest.fixture
def predictor() -> Predictor:
    settings = Settings.from_preset(image_size=SIDE, score_fraction=0.05)
    calibration = Calibration.fit([0.5], [0.5], ["a"], settings, "abc")
    bundle = Bundle(Path("nowhere"), settings, "abc", calibration, {})
    return Predictor(bundle, lambda x: x[..., 0].astype(np.float32) / 255, batch_size=5)


@pytest.fixture
def data(tmp_path) -> Path:
    """Test pictures of several sizes whose defects are somewhat brighter than the noise."""
    rng = np.random.default_rng(4)
    for kind, count in KINDS.items():
        for number in range(count):
            height, width = rng.integers(40, 150, 2)
            image = rng.integers(0, 200, (height, width, 3), np.uint8)
            if kind != "good":
                mask = np.zeros((height, width), np.uint8)
                mask[5:25, 8:31] = 255
                image[mask > 0] = rng.integers(60, 255, (int((mask > 0).sum()), 3))
                write(tmp_path / f"ground_truth/{kind}/{number:03}_mask.png", mask)
            write(tmp_path / f"test/{kind}/{number:03}.png", image)
    return tmp_path


def test_the_figures_are_scikit_learns_on_maps_and_masks_made_by_hand(predictor, data):
    samples = test_samples(data)
    figures = evaluate(predictor, samples)
    labels, scores, masks, maps = [], [], [], []
    for kind, count in KINDS.items():
        for number in range(count):
            picture = Image.open(data / f"test/{kind}/{number:03}.png")
            small = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            anomaly_map = np.asarray(small)[..., 0].astype(np.float32) / 255
            mask = np.zeros((SIDE, SIDE), bool)
            if kind != "good":
                true = Image.open(data / f"ground_truth/{kind}/{number:03}_mask.png")
                mask = np.asarray(true.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) >= 128
            labels.append(kind != "good")
            scores.append(image_score(anomaly_map, 0.05))
            masks.append(mask)
            maps.append(anomaly_map)
    assert (figures.pictures, figures.defective) == (12, 7)
    assert figures.image_auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    flat_masks, flat_maps = np.ravel(masks), np.ravel(maps)
    assert figures.pixel_auroc == pytest.approx(roc_auc_score(flat_masks, flat_maps), abs=1e-12)
    assert figures.pixel_ap == pytest.approx(
        average_precision_score(flat_masks, flat_maps), abs=1e-12
    )
    assert 0.5 < figures.pixel_auroc < 1
    assert 0 < figures.pixel_ap < 1
    reordered = evaluate(predictor, samples[::-1])
    assert reordered == figures


def test_masks_of_0_and_1_mean_the_same_as_0_and_255(predictor, data, tmp_path):
    before = evaluate(predictor, test_samples(data))
    for path in (data / "ground_truth").rglob("*.png"):
        mask = np.array(Image.open(path))
        write(path, (mask > 0).astype(np.uint8))
    assert evaluate(predictor, test_samples(data)) == before


def test_16_bit_masks_of_0_and_1_are_masks_too(tmp_path):
    mask = np.zeros((64, 64), np.uint16)
    mask[10:20] = 1
    sample = Sample(Path("part.png"), "hole", write(tmp_path / "mask.png", mask))
    np.testing.assert_array_equal(mask_of(sample, (64, 64)), mask > 0)


def test_only_one_kind_of_picture_gives_nan_where_nothing_can_be_told_apart(predictor, data):
    good = [sample for sample in test_samples(data) if not sample.is_defective]
    figures = evaluate(predictor, good)
    assert (figures.pictures, figures.defective) == (5, 0)
    assert np.isnan([figures.image_auroc, figures.pixel_auroc, figures.pixel_ap]).all()
    bad = [sample for sample in test_samples(data) if sample.is_defective]
    figures = evaluate(predictor, bad)
    assert np.isnan(figures.image_auroc)
    assert 0.5 < figures.pixel_auroc < 1


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (100, 7)])
def test_a_mask_is_resized_bilinearly_and_cut_at_one_half(size, tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[10:31, 20:41] = 7
    sample = Sample(Path("part.png"), "hole", write(tmp_path / "mask.png", mask))
    found = mask_of(sample, size)
    assert found.dtype == np.bool_
    assert found.shape == size
    shares = resize(np.repeat((mask[..., None] > 0) * np.uint8(255), 3, axis=2), size)[..., 0]
    np.testing.assert_array_equal(found, shares / 255 >= 0.5)
    assert found.mean() == pytest.approx((21 / 64) ** 2, abs=0.05)


def test_a_good_picture_needs_no_mask_and_one_that_it_has_does_not_count(tmp_path):
    path = write(tmp_path / "mask.png", np.full((8, 8), 255, np.uint8))
    for mask in (None, path):
        assert not mask_of(Sample(Path("part.png"), "good", mask), (8, 8)).any()


def test_a_missing_mask_is_named(predictor, data):
    (data / "ground_truth/hole/001_mask.png").unlink()
    with pytest.raises(DataError) as caught:
        evaluate(predictor, test_samples(data))
    assert str(data / "test/hole/001.png") in str(caught.value)
    assert "ground_truth/hole/" in str(caught.value)


def test_an_unreadable_picture_or_mask_is_named(predictor, data):
    mask = data / "ground_truth/hole/001_mask.png"
    mask.write_bytes(b"words")
    with pytest.raises(ImageError, match=r"001_mask\.png"):
        evaluate(predictor, test_samples(data))
    write(mask, np.full((64, 64), 255, np.uint8))
    picture = data / "test/scratch/002.png"
    picture.write_bytes(b"words")
    with pytest.raises(ImageError) as caught:
        evaluate(predictor, test_samples(data))
    assert caught.value.path == str(picture)


def test_pictures_of_which_nothing_is_known_are_refused(predictor, data):
    known = test_samples(data)
    unknown = Sample(known[0].path, None)
    with pytest.raises(DataError, match="without a kind") as caught:
        evaluate(predictor, [*known, unknown])
    assert str(unknown.path) in str(caught.value)
    with pytest.raises(DataError, match="no pictures"):
        evaluate(predictor, [])


def test_a_perfect_map_gives_perfect_figures(predictor, tmp_path):
    for kind, value in (("good", 0), ("hole", 255)):
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        image[10:20, 10:20] = value
        write(tmp_path / f"test/{kind}/0.png", image)
        write(tmp_path / f"ground_truth/{kind}/0_mask.png", image)
    figures = evaluate(predictor, test_samples(tmp_path))
    assert (figures.image_auroc, figures.pixel_auroc, figures.pixel_ap) == (1, 1, 1)
