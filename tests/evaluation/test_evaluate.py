import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, roc_auc_score

from destseg.config import Settings
from destseg.data.files import sha256_of
from destseg.data.images import resize
from destseg.data.roi import Roi
from destseg.data.samples import Sample, test_samples
from destseg.errors import DataError, ImageError
from destseg.evaluation.evaluate import evaluate, mask_of
from destseg.evaluation.outcomes import Coverage
from destseg.evaluation.report import make_entry
from destseg.inference.bundle import LEARNED, Bundle, save_bundle, save_calibration
from destseg.inference.calibration import Calibration
from destseg.inference.predictor import Predictor
from destseg.inference.scoring import image_score
from destseg.rate import Rate

SIDE = 64
DEFECT_TYPES = {"good": 5, "hole": 3, "scratch": 4}


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def told(evaluation):
    """Everything but the time it took; sums in another order differ in their last digits."""
    values = {k: v for k, v in evaluation.to_json().items() if not k.endswith(("seconds", "per_s"))}
    return json.loads(json.dumps(values), parse_float=lambda text: round(float(text), 12))


@pytest.fixture
def predictor() -> Predictor:
    settings = Settings.from_preset(image_size=SIDE, score_fraction=0.05)
    calibration = Calibration.fit([0.5], [0.5], ["a"], settings, "abc")
    bundle = Bundle(Path("nowhere"), settings, "abc", calibration, {})
    return Predictor(bundle, lambda x: x[..., 0].astype(np.float32) / 255, batch_size=5)


@pytest.fixture
def data(tmp_path) -> Path:
    """Test images of several sizes whose defects are somewhat brighter than the noise."""
    rng = np.random.default_rng(4)
    for defect_type, count in DEFECT_TYPES.items():
        for number in range(count):
            height, width = rng.integers(40, 150, 2)
            image = rng.integers(0, 200, (height, width, 3), np.uint8)
            if defect_type != "good":
                mask = np.zeros((height, width), np.uint8)
                mask[5:25, 8:31] = 255
                image[mask > 0] = rng.integers(60, 255, (int((mask > 0).sum()), 3))
                write(tmp_path / f"ground_truth/{defect_type}/{number:03}_mask.png", mask)
            write(tmp_path / f"test/{defect_type}/{number:03}.png", image)
    return tmp_path


def test_the_figures_are_scikit_learns_on_maps_and_masks_made_by_hand(predictor, data):
    samples = test_samples(data)
    figures = evaluate(predictor, samples)
    labels, scores, masks, maps = [], [], [], []
    for defect_type, count in DEFECT_TYPES.items():
        for number in range(count):
            image = Image.open(data / f"test/{defect_type}/{number:03}.png")
            small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            anomaly_map = np.asarray(small)[..., 0].astype(np.float32) / 255
            mask = np.zeros((SIDE, SIDE), bool)
            if defect_type != "good":
                true = Image.open(data / f"ground_truth/{defect_type}/{number:03}_mask.png")
                mask = np.asarray(true.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) >= 128
            labels.append(defect_type != "good")
            scores.append(image_score(anomaly_map, 0.05))
            masks.append(mask)
            maps.append(anomaly_map)
    assert (len(figures.records), figures.misses.total) == (12, 7)
    assert figures.image.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    flat_masks, flat_maps = np.ravel(masks), np.ravel(maps)
    assert figures.pixel.auroc == pytest.approx(roc_auc_score(flat_masks, flat_maps), abs=1e-12)
    assert figures.pixel.ap == pytest.approx(
        average_precision_score(flat_masks, flat_maps), abs=1e-12
    )
    assert 0.5 < figures.pixel.auroc < 1
    assert 0 < figures.pixel.ap < 1
    reordered = evaluate(predictor, samples[::-1])
    assert told(reordered) == told(figures)


def test_masks_of_which_nothing_is_left_are_told(predictor, data, caplog):
    """A defect of a pixel in 300 is less than half of one of the map's."""
    samples = test_samples(data)
    assert evaluate(predictor, samples).notes == ()
    mask = np.zeros((300, 300), np.uint8)
    mask[100, 100] = 255
    write(data / "ground_truth/hole/001_mask.png", mask)
    write(data / "test/hole/001.png", np.full((300, 300, 3), 9, np.uint8))
    figures = evaluate(predictor, samples)
    (note,) = figures.notes
    assert note.startswith("1 of 7 masks mark nothing at the size of the maps, so in the pixel")
    assert f": {data / 'test/hole/001.png'}. A larger --image-size" in note
    assert note in caplog.text
    assert figures.coverage.with_mask == 12
    predictor._roi = Roi(np.eye(2, dtype=bool)[::-1])  # nothing above on the left
    predictor.bundle = replace(predictor.bundle, roi_sha256="abc")
    (note,) = evaluate(predictor, samples).notes
    assert "masks mark nothing at the size of the maps in the region of interest" in note


def test_masks_of_0_and_1_mean_the_same_as_0_and_255(predictor, data, tmp_path):
    before = told(evaluate(predictor, test_samples(data)))
    for path in (data / "ground_truth").rglob("*.png"):
        mask = np.array(Image.open(path))
        write(path, (mask > 0).astype(np.uint8))
    assert told(evaluate(predictor, test_samples(data))) == before


def test_16_bit_masks_of_0_and_1_are_masks_too(tmp_path):
    mask = np.zeros((64, 64), np.uint16)
    mask[10:20] = 1
    sample = Sample(Path("part.png"), "hole", write(tmp_path / "mask.png", mask))
    np.testing.assert_array_equal(mask_of(sample, (64, 64)), mask > 0)


def test_a_mask_that_marks_nothing_is_an_error_that_names_it(predictor, data):
    path = data / "ground_truth/hole/001_mask.png"
    write(path, np.zeros_like(np.array(Image.open(path))))
    samples = test_samples(data)
    sample = next(each for each in samples if each.mask == path)
    with pytest.raises(ImageError, match=r"001_mask\.png: expected a mask that marks the defect"):
        mask_of(sample, (64, 64))
    record = evaluate(predictor, samples).records[samples.index(sample)]
    assert "got 0 everywhere" in record.error


def test_only_one_kind_of_image_gives_nan_where_nothing_can_be_told_apart(predictor, data):
    good = [sample for sample in test_samples(data) if not sample.is_defective]
    figures = evaluate(predictor, good)
    assert (len(figures.records), figures.misses.total) == (5, 0)
    assert np.isnan([figures.image.auroc, figures.pixel.auroc, figures.pixel.ap]).all()
    bad = [sample for sample in test_samples(data) if sample.is_defective]
    figures = evaluate(predictor, bad)
    assert np.isnan(figures.image.auroc)
    assert 0.5 < figures.pixel.auroc < 1


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


def test_a_good_image_needs_no_mask_and_may_have_one_that_marks_nothing(tmp_path):
    path = write(tmp_path / "mask.png", np.zeros((8, 8), np.uint8))
    for mask in (None, path):
        assert not mask_of(Sample(Path("part.png"), "good", mask), (8, 8)).any()


def test_a_good_image_with_a_mark_costs_its_pixels(predictor, data):
    samples = test_samples(data)
    marked = data / "ground_truth/hole/000_mask.png"
    at = next(place for place, each in enumerate(samples) if not each.is_defective)
    samples[at] = replace(samples[at], mask=marked)
    figures = evaluate(predictor, samples)
    (failed,) = figures.failures
    assert failed.path == str(samples[at].path)
    assert f"{marked}: expected a mask that marks nothing, as {samples[at].path}" in failed.error
    assert (figures.coverage.images, figures.coverage.with_mask) == (12, 11)


def test_masks_that_mark_most_of_what_is_inspected_are_told(predictor, data, caplog):
    """As inverted ones do; but some defects are as large."""
    samples = test_samples(data)
    path = data / "ground_truth/hole/001_mask.png"
    write(path, 255 - np.array(Image.open(path)))
    figures = evaluate(predictor, samples)
    (note,) = figures.notes
    assert note.startswith(f"1 of 7 masks mark more than half of what is inspected: {path}. Where")
    assert note in caplog.text
    assert figures.failures == ()
    predictor._roi = Roi(np.eye(2, dtype=bool))  # above on the left, where the squares are
    assert f"of 7 masks mark more than half of what is inspected: {path}" in "".join(
        evaluate(predictor, samples).notes
    )


def test_one_file_labelled_good_and_defective_is_told(predictor, data):
    assert evaluate(predictor, test_samples(data)).notes == ()
    copy = data / "test/scratch/003.png"
    shutil.copy(data / "test/good/002.png", copy)
    write(data / "ground_truth/scratch/003_mask.png", np.eye(60, dtype=np.uint8)[:, :1] * 255)
    for path in (data / "test/good/000.png", data / "test/scratch/000.png"):
        path.unlink()
        path.symlink_to("nowhere")  # neither is the other
    figures = evaluate(predictor, test_samples(data))
    (note,) = [note for note in figures.notes if "labelled" in note]
    assert note.startswith("2 of 12 images are labelled good and defective, the same file")
    assert str(copy) in note
    assert str(data / "test/good/002.png") in note


def test_images_without_a_mask_count_for_the_image_metrics_alone(predictor, data):
    whole = evaluate(predictor, test_samples(data))
    (data / "ground_truth/hole/001_mask.png").unlink()
    figures = evaluate(predictor, test_samples(data))
    assert figures.image == whole.image
    rest = [sample for sample in test_samples(data) if sample.path.name != "001.png"]
    rest += [sample for sample in test_samples(data) if sample.path.match("[gs]*/001.png")]
    assert figures.pixel == evaluate(predictor, rest).pixel
    assert figures.coverage == Coverage(given=12, images=12, with_mask=11, unreadable_masks=0)
    holes = {each.defect_type: each.coverage for each in figures.defect_types}["hole"]
    assert (holes.images, holes.with_mask) == (3, 2)
    assert not figures.failures
    assert figures.to_json()["coverage"]["with_mask"] == 11


def test_without_any_mask_image_metrics_are_given_and_pixel_metrics_are_not_defined(
    predictor, data
):
    whole = evaluate(predictor, test_samples(data))
    shutil.rmtree(data / "ground_truth")
    figures = evaluate(predictor, test_samples(data))
    assert figures.image == whole.image
    assert np.isnan(figures.pixel.ap)
    assert figures.pixel.reasons["ap"]
    assert (figures.coverage.images, figures.coverage.with_mask) == (12, 5)
    assert json.loads(json.dumps(figures.to_json(), allow_nan=False))["pixel"]["ap"] is None


def test_an_unreadable_mask_costs_the_pixels_of_its_image(predictor, data):
    whole = evaluate(predictor, test_samples(data))
    mask = data / "ground_truth/hole/001_mask.png"
    mask.write_bytes(b"words")
    seen = []
    figures = evaluate(
        predictor, test_samples(data), on_image=lambda *each: seen.append(each[2] is None)
    )
    assert figures.image == whole.image
    assert figures.coverage == Coverage(given=12, images=12, with_mask=11, unreadable_masks=1)
    (failed,) = figures.failures
    assert failed.path == str(data / "test/hole/001.png")
    assert failed.score is not None
    assert str(mask) in failed.error
    assert seen.count(True) == 1


def knowing(predictor: Predictor, learned=(), calibrated=()) -> Predictor:
    """The same model, that learned from some images, and whose threshold others have set."""
    bundle = predictor.bundle
    known = None
    if calibrated:
        count = len(calibrated)
        known = Calibration.fit(
            [0.5] * count,
            [0.5] * count,
            list(map(str, range(count))),
            bundle.settings,
            "abc",
            image_sha256=[sha256_of(each) for each in calibrated],
        )
    facts = {LEARNED: [sha256_of(each) for each in learned]}
    bundle = replace(bundle, training=facts, calibration=known or bundle.calibration)
    return Predictor(
        bundle, lambda x: x[..., 0].astype(np.float32) / 255, batch_size=predictor.batch_size
    )


def test_what_was_learned_is_left_out_whatever_it_is_called(predictor, data, tmp_path, caplog):
    learned = [data / "test/good/001.png", data / "test/hole/002.png"]
    rest = [sample for sample in test_samples(data) if sample.path not in learned]
    expected = evaluate(predictor, rest)
    places = [
        shutil.copy(path, tmp_path / f"elsewhere-{number}.bmp")
        for number, path in enumerate(learned)
    ]
    steps = []
    figures = evaluate(
        knowing(predictor, map(Path, places)),
        test_samples(data),
        on_progress=lambda *each: steps.append(each),
    )
    # How often the rest counts, and in which metrics, is as if the others had not been given.
    assert told(figures) == told(expected) | {
        "learned": [path.as_posix() for path in learned],
        "notes": list(figures.notes),
    }
    (note,) = figures.notes
    assert "left out 2 of 12 images that the model learned from" in note
    assert all(str(path) in note for path in learned)
    assert note in caplog.text
    assert steps == [(number, 10) for number in range(1, 11)]


def test_images_that_set_the_threshold_are_counted_and_told(predictor, data, caplog):
    chosen = [data / "test/good/001.png", data / "test/good/003.png"]
    figures = evaluate(knowing(predictor, (), chosen), test_samples(data))
    assert (figures.coverage.images, figures.false_alarms.total) == (12, 5)
    assert figures.calibrated == tuple(path.as_posix() for path in chosen)
    (note,) = figures.notes
    assert "2 of 12 images set the threshold" in note
    assert note in caplog.text


def test_nothing_but_what_was_learned_is_refused(predictor, data):
    samples = test_samples(data)
    with pytest.raises(DataError, match="got 12 of which it learned from all"):
        evaluate(knowing(predictor, [sample.path for sample in samples]), samples)


def test_new_images_have_no_note(predictor, data, tmp_path):
    other = write(tmp_path / "other.png", np.zeros((9, 9, 3), np.uint8))
    figures = evaluate(knowing(predictor, [other], [other]), test_samples(data))
    assert (figures.notes, figures.learned, figures.calibrated) == ((), (), ())
    assert told(figures) == told(evaluate(knowing(predictor, (), [other]), test_samples(data)))


def test_an_unreadable_image_costs_its_row(predictor, data):
    image = data / "test/scratch/002.png"
    rest = [sample for sample in test_samples(data) if sample.path != image]
    expected = evaluate(predictor, rest)
    image.write_bytes(b"words")
    seen = []
    figures = evaluate(predictor, test_samples(data), on_image=lambda *each: seen.append(each))
    assert (figures.image, figures.pixel) == (expected.image, expected.pixel)
    assert (figures.misses, figures.false_alarms) == (expected.misses, expected.false_alarms)
    assert figures.coverage == Coverage(given=12, images=11, with_mask=11, unreadable_masks=0)
    (failed,) = figures.failures
    assert failed.path == str(image)
    assert (failed.defect_type, failed.score, failed.is_defective) == ("scratch", None, None)
    assert failed.outcome == "unreadable"
    assert [record.path for record in figures.records] == [
        str(sample.path) for sample in test_samples(data)
    ]
    assert len(seen) == 12
    values = figures.to_json()
    assert values["failures"] == [{"path": str(image), "error": failed.error}]
    assert values["images"] == 12


def test_nothing_readable_gives_no_figure_and_every_reason(predictor, data):
    for image in (data / "test").rglob("*.png"):
        image.write_bytes(b"words")
    figures = evaluate(predictor, test_samples(data))
    assert np.isnan([figures.image.auroc, figures.pixel.auroc]).all()
    assert len(figures.failures) == 12
    assert json.dumps(figures.to_json(), allow_nan=False)


def test_files_that_the_listing_shows_to_be_missing_are_told_before_the_first_image(
    predictor, data, caplog
):
    samples = test_samples(data)
    gone = [data / "test/good/001.png", data / "ground_truth/hole/002_mask.png"]
    for path in gone:
        path.unlink()
    (data / "test/good/004.png").write_bytes(b"")
    told = []

    def look(*_):
        told.append([record.getMessage() for record in caplog.records])

    figures = evaluate(predictor, samples, on_image=look)
    (message,) = told[0]
    assert told[0] == told[-1]
    assert "3 of the files to be read cannot be" in message
    for path in (*gone, data / "test/good/004.png"):
        assert str(path) in message
    assert len(figures.failures) == 3
    assert figures.coverage == Coverage(given=12, images=10, with_mask=9, unreadable_masks=1)


def test_images_of_which_nothing_is_known_are_refused(predictor, data):
    known = test_samples(data)
    unknown = Sample(known[0].path, None)
    with pytest.raises(DataError, match="without a label") as caught:
        evaluate(predictor, [*known, unknown])
    assert str(unknown.path) in str(caught.value)
    with pytest.raises(DataError, match="no images"):
        evaluate(predictor, [])


def test_a_perfect_map_gives_perfect_figures(predictor, tmp_path):
    for defect_type, value in (("good", 0), ("hole", 255)):
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        image[10:20, 10:20] = value
        write(tmp_path / f"test/{defect_type}/0.png", image)
        write(tmp_path / f"ground_truth/{defect_type}/0_mask.png", image)
    figures = evaluate(predictor, test_samples(tmp_path))
    assert (figures.image.auroc, figures.pixel.auroc, figures.pixel.ap) == (1, 1, 1)


@pytest.mark.parametrize(("count", "total"), [(0, 1), (0, 20), (1, 1), (3, 20), (20, 20), (7, 999)])
def test_intervals_are_wilsons(count, total):
    rate = Rate(count, total)
    expected = binomtest(count, total).proportion_ci(confidence_level=0.95, method="wilson")
    assert rate.value == count / total
    assert rate.interval == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_rate_of_nothing_is_not_defined():
    assert np.isnan([Rate(0, 0).value, *Rate(0, 0).interval]).all()


def test_kinds_are_measured_with_the_good_images(predictor, data):
    samples = test_samples(data)
    figures = evaluate(predictor, samples)
    assert [each.defect_type for each in figures.defect_types] == ["good", "hole", "scratch"]
    assert [each.flagged.total for each in figures.defect_types] == [5, 3, 4]
    for each in figures.defect_types[1:]:
        alone = evaluate(
            predictor, [s for s in samples if s.defect_type in ("good", each.defect_type)]
        )
        assert (each.image, each.pixel) == (alone.image, alone.pixel)
    assert np.isnan(figures.defect_types[0].pixel.ap)
    assert "ap" in figures.defect_types[0].pixel.reasons


def test_decisions_are_counted_at_the_threshold(predictor, data):
    figures = evaluate(predictor, test_samples(data))
    threshold = predictor.calibration.threshold
    good = [record.score > threshold for record in figures.records if record.defect_type == "good"]
    bad = [record.score <= threshold for record in figures.records if record.defect_type != "good"]
    assert figures.false_alarms == Rate(sum(good), 5)
    assert figures.misses == Rate(sum(bad), 7)
    outcomes = [record.outcome for record in figures.records]
    assert outcomes.count("false alarm") == sum(good)
    assert outcomes.count("missed") == sum(bad)


def test_bounded_memory_gives_the_same_within_a_ten_thousandth(predictor, data):
    exact = evaluate(predictor, test_samples(data)).pixel
    bounded = evaluate(predictor, test_samples(data), exact=False).pixel
    for name in ("auroc", "ap", "f1_max", "aupro", "iap", "iap_90"):
        assert getattr(bounded, name) == pytest.approx(getattr(exact, name), abs=1e-4)


def test_json_has_null_and_a_reason_for_what_is_not_defined(predictor, data):
    good = [sample for sample in test_samples(data) if not sample.is_defective]
    values = evaluate(predictor, good).to_json()
    assert values["pixel"]["ap"] is None
    assert values["pixel"]["reasons"]["ap"]
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_a_mask_at_another_scale_is_taken_and_one_of_another_shape_refused(predictor, data):
    samples = test_samples(data)
    before = evaluate(predictor, samples)
    path = data / "ground_truth/hole/001_mask.png"
    mask = Image.open(path)
    mask.resize((mask.width * 2, mask.height * 2), Image.Resampling.NEAREST).save(path)
    assert evaluate(predictor, samples).pixel.ap == pytest.approx(before.pixel.ap, abs=0.02)
    mask.resize((mask.width * 2, mask.height), Image.Resampling.NEAREST).save(path)
    (failed,) = evaluate(predictor, samples).failures
    assert re.search(r"001_mask\.png: expected a mask with the proportions", failed.error)


def test_every_image_is_handed_over_with_its_mask(predictor, data):
    samples, seen = test_samples(data), []
    evaluate(predictor, samples, on_image=lambda *each: seen.append(each))
    assert [sample for sample, _, _ in seen] == samples
    assert [result.path for _, result, _ in seen] == [str(sample.path) for sample in samples]
    assert [mask.any() for _, _, mask in seen] == [sample.is_defective for sample in samples]


def tiled_predictor(folder, roi=None):
    settings = Settings.from_preset(image_size=SIDE, score_fraction=0.05, tile=True)
    saved = save_bundle(folder, settings, {}, {}, roi)
    fitted = Calibration.fit([0.5], [0.5], ["a"], settings, saved.weights_sha256, saved.roi_sha256)
    backend = lambda x: x[..., 0].astype(np.float32) / 255  # noqa: E731
    return Predictor(save_calibration(saved, fitted), backend, batch_size=5)


@pytest.mark.parametrize("exact", [True, False])
def test_tiled_maps_of_mixed_sizes_are_compared_at_their_own_size(data, tmp_path, exact):
    seen = []
    samples = test_samples(data)
    figures = evaluate(
        tiled_predictor(tmp_path / "model"),
        samples,
        exact=exact,
        on_image=lambda sample, result, mask: seen.append((sample, result, mask)),
    )
    masks, maps = [], []
    for sample, result, mask in seen:
        image = Image.open(sample.path)
        height, width = image.height, image.width
        scale = max(1, SIDE / min(height, width))
        size = max(SIDE, round(width * scale)), max(SIDE, round(height * scale))
        seen_at = image.resize(size, Image.Resampling.BILINEAR)
        anomaly_map = np.asarray(seen_at)[..., 0] / np.float32(255)
        np.testing.assert_allclose(result.anomaly_map, anomaly_map, atol=1e-6)
        assert mask.shape == anomaly_map.shape
        true = np.zeros(mask.shape, bool)
        if sample.mask is not None:
            drawn = Image.open(sample.mask).resize(size, Image.Resampling.BILINEAR)
            true = np.asarray(drawn) >= 128
        np.testing.assert_array_equal(mask, true)
        masks.append(true.ravel())
        maps.append(anomaly_map.ravel())
        entry = make_entry(sample, result, np.asarray(image), mask)
        drawn_size = Image.open(io.BytesIO(entry.heatmap)).size
        assert drawn_size == Image.open(io.BytesIO(entry.image)).size == image.size
    assert len({mask.shape for mask in masks}) > 5
    auroc = roc_auc_score(np.concatenate(masks), np.concatenate(maps))
    assert figures.pixel.auroc == pytest.approx(auroc, abs=1e-4)


def test_what_lies_outside_of_the_region_of_interest_is_not_asked_for(data, tmp_path):
    left = np.zeros((10, 10), bool)
    left[:, :2] = True
    masks = []
    figures = evaluate(
        tiled_predictor(tmp_path / "model", Roi(left)),
        test_samples(data),
        on_image=lambda _, result, mask: masks.append((result, mask)),
    )
    assert any(mask.any() for _, mask in masks)
    for result, mask in masks:
        inspected = Roi(left).at(mask.shape)
        assert not mask[~inspected].any()
        assert not result.anomaly_map[~inspected].any()
    inside = [
        (result.anomaly_map[m], mask[m])
        for result, mask in masks
        for m in [Roi(left).at(mask.shape)]
    ]
    maps, true = map(np.concatenate, zip(*inside, strict=True))
    assert figures.pixel.auroc == pytest.approx(roc_auc_score(true, maps))
    assert figures.pixel.ap == pytest.approx(average_precision_score(true, maps))


def test_a_mask_of_the_maps_size_may_have_as_many_pixels_as_its_image(tmp_path, monkeypatch):
    monkeypatch.setattr("destseg.evaluation.evaluate.DataSettings.max_pixels", 100)
    mask = np.zeros((30, 30), np.uint8)
    mask[4:9, 4:9] = 255
    sample = Sample(Path("part.png"), "hole", write(tmp_path / "mask.png", mask))
    np.testing.assert_array_equal(mask_of(sample, (30, 30), (30, 30)), mask > 0)
    with pytest.raises(ImageError, match="--max-pixels"):
        mask_of(sample, (8, 8), (8, 8))
