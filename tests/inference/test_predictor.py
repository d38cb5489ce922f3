import dataclasses
import io
import itertools
import logging
import pickle
import re
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

import destseg
from destseg.data.depth import depth_note
from destseg.data.images import resize
from destseg.data.noise import UsualNoise, noise_of
from destseg.data.noise_filter import without_noise
from destseg.errors import BatchError, BundleError, DataError, ImageError, SettingsError
from destseg.inference.backends import Runtime, open_backend
from destseg.inference.bundle import save_bundle, save_calibration
from destseg.inference.calibration import TOLERANCE, Calibration
from destseg.inference.predictor import Predictor, load
from destseg.inference.result import Failure, Result, find_regions
from destseg.inference.scoring import image_score


def noise(height: int, width: int, seed: int = 0, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (height, width, 3), np.uint8)


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def plain(result: Result) -> dict:
    """All of a result in comparable values."""
    return {**vars(result), "anomaly_map": result.anomaly_map.tolist()}


# --- noise that no good image had


def smooth(height: int = 64, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.rint(100 + 30 * np.sin(x / 20 + y / 30))[..., None].repeat(3, 2).astype(np.uint8)


def with_noise(image: np.ndarray, level: float) -> np.ndarray:
    added = np.random.default_rng(0).normal(0, level, image.shape)
    return np.rint(image + added).astype(np.uint8)


@pytest.fixture
def shown() -> list[np.ndarray]:
    """What the networks are given."""
    return []


@pytest.fixture
def filtering(make_predictor, shown):
    """Returns a predictor of a model that was trained on images with so much noise."""

    def make(noise: float | None, **changes) -> Predictor:
        def backend(images):
            shown.extend(images)
            return images[..., 0].astype(np.float32) / 255

        return make_predictor(backend, noise=noise, **changes)

    return make


def mean_distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def test_noise_beyond_that_of_training_is_filtered_out_and_told_once(filtering, shown, caplog):
    clean = smooth()
    noisy = with_noise(clean, 6)
    filtering(0.5).predict([noisy, noisy])
    assert mean_distance(shown[0], clean) < 0.4 * mean_distance(noisy, clean)
    assert np.array_equal(*shown)
    (record,) = caplog.records
    assert re.search(r"image [01]: more noise than in training, by [5-7]\.\d", record.getMessage())


def test_an_image_like_those_of_training_is_left_as_it_is(filtering, shown, caplog):
    images = [smooth(), with_noise(smooth(), 3)]
    filtering(3.2).predict(images)
    assert all(map(np.array_equal, images, shown))
    assert not caplog.records


@pytest.mark.parametrize(
    ("noise_of_training", "changes"),
    [(None, {}), (0.5, {"filter_noise": False})],
)
def test_without_a_filter_noise_stays(noise_of_training, changes, filtering, shown, caplog):
    noisy = with_noise(smooth(), 6)
    filtering(noise_of_training, **changes).predict(noisy)
    assert np.array_equal(shown[0], noisy)
    assert not caplog.records


@pytest.mark.parametrize("changes", [{"fit": "pad", "image_size": 128}, {"tile": True}])
def test_noise_is_filtered_in_padded_images_and_in_tiles(changes, filtering, shown):
    clean = smooth(64, 128)
    noisy = with_noise(clean, 6)
    filtering(0.5, **changes).predict(noisy)
    own = np.s_[:64, :64]  # of the first tile, or above what pads it
    assert mean_distance(shown[0][own], clean[own]) < 0.5 * mean_distance(noisy[own], clean[own])


def test_noise_that_the_resize_has_smeared_is_filtered_as_such(filtering, shown):
    large = with_noise(smooth(256, 320), 16)
    filtering(0.5).predict(large)
    given = resize(large, (64, 64))
    surplus = noise_of(given).beyond(UsualNoise(0.5, 0.5))
    assert np.array_equal(shown[0], without_noise(given, surplus, (256, 320)))
    assert not np.array_equal(shown[0], without_noise(given, surplus))


# --- one image, step by step


@pytest.mark.parametrize(("height", "width"), [(64, 96), (30, 100), (200, 30), (5, 5)])
def test_what_is_added_to_an_image_is_not_scored(make_predictor, height, width):
    shown = []

    def backend(images):
        """A map that is highest in what is added, which is known by its size alone."""
        shown.append(images.shape)
        maps = np.ones(images.shape[:3], np.float32)
        h, w = fitted
        maps[:, :h, :w] = 0.25
        return maps

    scale = min(64 / height, 96 / width)
    fitted = round(scale * height), round(scale * width)
    predictor = make_predictor(backend, image_size=(64, 96), fit="pad", score_fraction=1.0)
    result = predictor.predict(noise(height, width))
    assert shown == [(1, 64, 96, 3)]
    assert result.anomaly_map.shape == fitted
    assert result.heatmap.shape == (height, width)
    assert result.score == 0.25


def test_a_size_that_is_not_square_is_height_and_width(make_predictor):
    image = noise(40, 200)
    result = make_predictor(image_size=(64, 128)).predict(image)
    expected = np.array(Image.fromarray(image).resize((128, 64), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(result.anomaly_map, expected[..., 0] / np.float32(255))


def test_12_bit_values_mean_the_same_as_files_bytes_arrays_and_pil_images(make_predictor, tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (64, 64), np.uint16)
    Image.fromarray(values).save(tmp_path / "part.png")
    path = tmp_path / "part.png"
    predictor = make_predictor(bit_depth=12)
    expected = np.rint(values * (255 / 4095)).astype(np.uint8).astype(np.float32) / 255
    for image in (path, path.read_bytes(), values, Image.fromarray(values)):
        np.testing.assert_array_equal(predictor.predict(image).anomaly_map, expected)
    with pytest.raises(ImageError, match=r"part\.png: expected 10-bit values"):
        make_predictor(bit_depth=10).predict(path)


def test_of_12_bit_values_taken_for_16_a_predictor_tells_once(make_predictor, caplog, monkeypatch):
    both = threading.Barrier(2)  # the two threads that read look at the same time

    def note(images):
        found = depth_note(images)
        if found:
            both.wait(10)
        return found

    monkeypatch.setattr("destseg.inference.reading.depth_note", note)
    values = np.random.default_rng(0).integers(0, 4096, (64, 64), np.uint16)
    dark = np.full((64, 64), 9, np.uint8)
    with caplog.at_level(logging.WARNING, "destseg"):
        predictor = make_predictor()
        predictor.predict([dark, values * 16])
        assert not caplog.records
        predictor.predict([values, values])
        predictor.predict(values)
    (record,) = caplog.records
    assert record.name.startswith("destseg.")
    assert ": no value of 1 16-bit image" in record.getMessage()
    assert "--bit-depth 12" in record.getMessage()


def test_an_image_goes_through_every_step_once(make_predictor, tmp_path):
    path = write(tmp_path / "part.png", noise(90, 130))
    seen = []

    def backend(images):
        seen.append(images)
        return images[..., 1].astype(np.float32) / 255

    predictor = make_predictor(backend, score_fraction=0.01)
    result = predictor.predict(path)
    (pixels,) = seen
    np.testing.assert_array_equal(pixels[0], resize(np.array(Image.open(path)), (64, 64)))
    anomaly_map = pixels[0, ..., 1].astype(np.float32) / 255
    np.testing.assert_array_equal(result.anomaly_map, anomaly_map)
    assert result.score == image_score(anomaly_map, 0.01)
    assert (result.height, result.width) == (90, 130)
    assert result.heatmap.shape == (90, 130)
    assert result.path == str(path)
    assert result.threshold == result.pixel_threshold == 0.3 + TOLERANCE
    assert result.regions == find_regions(result.heatmap, 0.3)
    assert result.regions


@pytest.mark.parametrize(
    ("red", "p_value", "defective"),
    [
        (20, 1.0, False),
        (40, 3 / 4, False),
        (60, 2 / 4, False),
        (77, 1 / 4, True),
        (255, 0.25, True),
    ],
)
def test_the_decision_is_by_the_calibration_scores(red, p_value, defective, predictor):
    # Calibration scores are 0.1, 0.2 and 0.3; red / 255 is the score.
    result = predictor.predict(np.full((64, 64, 3), red, np.uint8))
    assert result.score == pytest.approx(red / 255)
    assert result.p_value == p_value
    assert result.is_defective is defective
    assert len(result.regions) == defective


@pytest.mark.parametrize("by", [-TOLERANCE, 0, TOLERANCE])
@pytest.mark.parametrize("level", [0.0, 0.25, 1.0])
def test_a_tie_with_the_score_that_set_the_threshold_is_good(level, by, make_predictor):
    """As another runtime within the tolerance would have it, also where maps are made larger."""
    value = np.float32(min(1, max(0, level + 0.999 * by)))
    predictor = make_predictor(lambda x: np.full(x.shape[:3], value), scores=(level,))
    for side in (64, 33, 200):
        result = predictor.predict(noise(side, side))
        assert result.score == value
        assert not result.is_defective
        assert result.p_value == 1
        assert result.regions == ()


def test_a_score_above_the_tie_is_defective_and_near_it_borderline(make_predictor):
    for above, borderline in ((1.01, True), (1.9, True), (2.1, False)):
        value = np.float32(0.25 + above * TOLERANCE)
        predictor = make_predictor(lambda x, v=value: np.full(x.shape[:3], v), scores=(0.25,))
        result = predictor.predict(noise(64, 64))
        assert result.is_defective
        assert result.p_value == 0.5
        assert len(result.regions) == 1
        assert result.is_borderline is borderline


# --- what an image may be


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (50, 81), (200, 100)])
def test_the_same_pixels_give_the_same_result_in_every_form(grey, size, predictor, tmp_path):
    image = noise(*size)[..., 0] if grey else noise(*size)
    path = write(tmp_path / "part.png", image)
    forms = [path, str(path), path.read_bytes(), Image.open(path), Image.fromarray(image), image]
    forms += [image[..., None]] if grey else [np.dstack([image, image[..., :1]])]
    forms += [np.asfortranarray(image), image.astype(np.uint16) * 257]
    results = [plain(predictor.predict(form)) for form in forms]
    for result in results:
        result.pop("path")
        assert result == results[0]


def test_an_image_is_left_as_it_is(make_predictor):
    image = noise(64, 64)
    image.setflags(write=False)
    held = image.copy()
    make_predictor().predict(image)
    np.testing.assert_array_equal(image, held)


def test_names_are_the_paths_as_given_or_the_number(predictor, tmp_path, monkeypatch):
    write(tmp_path / "part.png", noise(8, 8))
    monkeypatch.chdir(tmp_path)
    images = ["part.png", Path("part.png"), noise(8, 8), Image.open("part.png"), "./part.png"]
    names = [result.path for result in predictor.predict(images)]
    assert names == ["part.png", "part.png", "image 2", "image 3", "./part.png"]


def test_one_image_gives_a_result_and_a_list_gives_a_list(predictor):
    image = noise(64, 64)
    assert isinstance(predictor.predict(image), Result)
    assert predictor.predict([]) == predictor.predict(()) == []
    for several in ([image], (image,), [image, image]):
        results = predictor.predict(several)
        assert isinstance(results, list)
        assert len(results) == len(several)


class Tensor:
    """What is used of PyTorch's, here without it."""

    def __init__(self, array):
        self.array, self.ndim = array, array.ndim

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        if self.array.dtype == object:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


def test_files_tensors_and_buffers_are_images(predictor, tmp_path):
    image = noise(64, 64)
    path = write(tmp_path / "part.png", image)
    expected = predictor.predict(image)
    with path.open("rb") as file:
        result = predictor.predict(file)
    assert result.path == str(path)
    forms = [Tensor(image), bytearray(path.read_bytes()), memoryview(path.read_bytes())]
    forms += [io.BytesIO(path.read_bytes())]
    for each in (result, *map(predictor.predict, forms)):
        assert isinstance(each, Result)
        assert dataclasses.replace(each, path="image 0") == expected


def test_many_images_in_every_form_give_a_list_in_their_order(predictor, tmp_path, monkeypatch):
    stack = np.stack([noise(64, 64, seed=seed) for seed in range(11)])
    paths = [write(tmp_path / "home/parts" / f"{n}.png", image) for n, image in enumerate(stack)]
    (tmp_path / "home/list.txt").write_text("\n".join(map(str, paths[::-1])), encoding="utf-8")
    expected = [result.score for result in predictor.predict(list(stack))]
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for many in (stack, Tensor(stack), iter(stack), (p for p in paths), paths[0].parent, "~/parts"):
        results = predictor.predict(many)
        assert isinstance(results, list)
        assert [result.score for result in results] == expected
    assert [result.score for result in predictor.predict("~/list.txt")] == expected[::-1]
    assert [result.path for result in predictor.predict("~/parts")] == list(map(str, paths))
    assert predictor.predict(stack[:0]) == predictor.predict(iter(())) == []
    assert predictor.predict("~/parts/3.png").path == str(paths[3])
    assert [result.score for result in predictor.stream(paths[3])] == [expected[3]]
    assert [result.score for result in predictor.stream("~/parts")] == expected


def test_a_file_is_read_before_whoever_opened_it_closes_it(predictor, tmp_path):
    paths = [write(tmp_path / f"{n}.png", noise(20, 20, seed=n)) for n in range(9)]

    def opened():
        for path in paths:
            with path.open("rb") as file:
                yield file

    assert predictor.predict(opened()) == predictor.predict(paths)


def test_what_is_no_image_is_refused_with_what_would_be(predictor, tmp_path):
    path = write(tmp_path / "part.png", noise(20, 20))
    closed = path.open("rb")
    closed.close()
    first = np.zeros((3, 64, 64), np.uint8)
    for image, reason in (
        (first, r"move it to the end; if these are several grey images, .*: list\(array\)"),
        (first[[0, 1]], r"\[2, 64, 64\]; if these are several grey images"),
        (first > 0, "bool .*; multiply by 255 and convert to uint8"),
        ({"left": first[0]}, r"got dict; give .* list\(images.values\(\)\)"),
        ({"part.png": 1}, r"got dict; give .* paths, list\(images\)"),
        (Tensor(first), "channels come last"),
        (Tensor(np.zeros((2, 2, 3), object)), "expected a uint8 tensor"),
        (io.StringIO("words"), "open it with 'rb'"),
        (closed, "closed file"),
        (7, "got int"),
    ):
        with pytest.raises(ImageError, match=reason):
            predictor.predict(image)
        dark, failed = predictor.stream([np.zeros((9, 9, 3), np.uint8), image])
        assert (type(dark), type(failed)) == (Result, Failure)
    with pytest.raises(BatchError, match="channels come last"):
        predictor.predict(np.stack([first, first]))
    with pytest.raises(DataError, match="nothing there"):
        predictor.predict(tmp_path / "no list.txt")


def test_a_name_that_begins_with_a_tilde_is_that_file_where_it_is_there(
    predictor, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "~" / "part.png", noise(9, 9))
    assert predictor.predict("~/part.png").path == "~/part.png"


# --- closing and pickling


def test_a_closed_predictor_refuses_and_its_streams_end(predictor):
    image = noise(64, 64)
    with predictor as opened:
        assert opened is predictor
        begun = predictor.stream(image for _ in range(100))
        next(begun)
    for _ in range(2):
        with pytest.raises(BundleError, match="expected an open predictor, got a closed one"):
            predictor.predict(image)
        predictor.close()
    with pytest.raises(BundleError, match="closed"):
        list(begun)


def test_a_predictor_of_a_backend_that_was_handed_in_says_why_it_cannot_be_pickled(predictor):
    with pytest.raises(TypeError, match="backend was handed in"):
        pickle.dumps(predictor)


# --- batches


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 7, 100])
def test_results_do_not_depend_on_the_batch_size(batch_size, make_predictor, tmp_path):
    images = [noise(30 + 7 * k, 90 - 5 * k, seed=k) for k in range(7)]
    sizes = []

    def backend(batch):
        sizes.append(len(batch))
        return batch[..., 0].astype(np.float32) / 255

    together = make_predictor(backend, batch_size=batch_size).predict(images)
    assert sizes == [min(batch_size, 7 - start) for start in range(0, 7, batch_size)]
    for number, (result, image) in enumerate(zip(together, images, strict=True)):
        alone = plain(make_predictor().predict(image))
        assert plain(result) == {**alone, "path": f"image {number}"}


def test_order_is_kept_whatever_cannot_be_read(make_predictor, tmp_path):
    images: list = []
    for number in range(20):
        if number % 3 == 1:
            path = tmp_path / f"{number}.png"
            path.write_bytes(b"words" if number % 2 else b"")
            images.append(path)
        else:
            images.append(write(tmp_path / f"{number}.png", np.full((9, 9, 3), number, np.uint8)))
    images[7] = tmp_path / "nothing there.png"
    images[9] = np.zeros((4, 4), np.float64)
    broken = {number for number in range(20) if number % 3 == 1} | {9}
    for batch_size in (1, 3, 4, 50):
        predictor = make_predictor(batch_size=batch_size)
        answers = list(predictor.stream(images))
        assert len(answers) == 20
        for number, answer in enumerate(answers):
            assert isinstance(answer, Failure) == (number in broken)
            expected = "image 9" if number == 9 else str(images[number])
            assert answer.path == expected
            if isinstance(answer, Failure):
                assert answer.error.path == expected
            else:
                assert answer.score == pytest.approx(number / 255)


def test_a_batch_of_nothing_but_unreadable_files_asks_no_backend(make_predictor, tmp_path):
    def backend(images):
        raise AssertionError("nothing to run")

    answers = list(make_predictor(backend).stream([tmp_path / "a.png", tmp_path / "b.png"]))
    assert [type(answer) for answer in answers] == [Failure, Failure]


@pytest.mark.parametrize("tile", [False, True])
def test_the_three_steps_give_what_a_stream_gives(tile, make_predictor):
    predictor = make_predictor(tile=tile)
    images = [np.full((80, 96, 3), level, np.uint8) for level in (9, 200)]
    given = [images[0], b"no image", images[1]]
    apart = list(map(predictor.decide, predictor.map(list(map(predictor.read, given)))))
    for one, other in zip(apart, predictor.stream(given), strict=True):
        assert type(one) is type(other)
        if isinstance(one, Failure):
            assert one.error.reason == other.error.reason
        else:
            assert (one.score, one.is_defective) == (other.score, other.is_defective)
            np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)


def test_several_with_an_unreadable_one_raise_with_the_results_of_the_others(predictor, tmp_path):
    missing = tmp_path / "nothing there.png"
    dark, light = np.zeros((9, 9, 3), np.uint8), np.full((9, 9, 3), 255, np.uint8)
    with pytest.raises(BatchError) as caught:
        predictor.predict([dark, missing, light])
    first, failed, last = caught.value.results
    assert (first.score, failed, last.score) == (0, None, 1)
    (failure,) = caught.value.failures
    assert isinstance(failure, ImageError)
    assert failure.path == str(missing)
    assert "1 of 3" in str(caught.value)


def test_one_unreadable_image_raises_its_own_error(predictor, tmp_path):
    with pytest.raises(ImageError) as caught:
        predictor.predict(tmp_path / "nothing there.png")
    assert not isinstance(caught.value, BatchError)
    assert str(tmp_path / "nothing there.png") in str(caught.value)
    with pytest.raises(ImageError, match="image 0: expected"):
        predictor.predict(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ImageError, match="got int"):
        predictor.predict(5)


def test_images_beyond_the_limit_of_the_settings_are_refused(make_predictor, tmp_path):
    path = write(tmp_path / "part.png", noise(30, 30))
    assert make_predictor(max_pixels=900).predict(path).height == 30
    for form in (path, path.read_bytes()):
        with pytest.raises(ImageError, match="--max-pixels"):
            make_predictor(max_pixels=899).predict(form)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "2", True, None])
def test_a_batch_of_nothing_is_refused(batch_size, make_predictor):
    with pytest.raises(SettingsError, match="batch-size"):
        make_predictor(batch_size=batch_size)


# --- streams


def test_a_stream_takes_images_as_they_are_needed(make_predictor):
    taken = itertools.count()
    batch_size = 3
    predictor = make_predictor(batch_size=batch_size)
    stream = predictor.stream(np.zeros((4, 4, 3), np.uint8) for _ in taken)
    assert isinstance(stream, Iterator)
    for done in range(1, 20):
        assert isinstance(next(stream), Result)
        # One batch is out, two more are being read.
        assert next_value(taken) <= done + 4 * batch_size
    stream.close()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_stream_answers_while_a_camera_takes_its_time(batch_size, make_predictor):
    taken = itertools.count()

    def camera():
        for _ in zip(range(10 * batch_size), taken, strict=False):
            time.sleep(0.02)
            yield np.zeros((4, 4, 3), np.uint8)

    stream = make_predictor(batch_size=batch_size).stream(camera())
    behind = [next_value(taken) - 1 - number for number, _ in enumerate(stream)]
    assert sorted(behind)[len(behind) // 2] <= 2 * batch_size
    assert max(behind) < 4 * batch_size


def next_value(counter: itertools.count) -> int:
    return int(repr(counter).partition("(")[2].rstrip(")"))


def test_nothing_is_taken_before_it_is_asked_for(predictor):
    def images():
        raise AssertionError("asked")
        yield

    stream = predictor.stream(images())
    with pytest.raises(AssertionError, match="asked"):
        next(stream)


def test_an_iterator_may_fill_one_array_again_and_turn_one_image_to_its_pages(predictor, tmp_path):
    images = [noise(20, 24, seed) for seed in range(12)]
    expected = [predictor.predict(image).score for image in images]
    assert len(set(expected)) > 6

    def filled():
        array = np.empty_like(images[0])
        for image in images:
            array[:] = image
            yield array

    assert [result.score for result in predictor.stream(filled())] == expected
    pages = [Image.fromarray(image) for image in images]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with Image.open(tmp_path / "pages.tif") as book:
        turned = predictor.stream(ImageSequence.Iterator(book))
        assert [result.score for result in turned] == expected


def test_a_pil_image_of_an_iterator_is_upright(predictor, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    for suffix in ("jpg", "tif", "png"):
        path = tmp_path / f"turned.{suffix}"
        Image.fromarray(noise(20, 24)).save(path, exif=turned)
        (result,) = predictor.stream(Image.open(each) for each in [path])
        assert result.score == predictor.predict(path).score


def test_an_endless_stream_can_be_left_and_leaves_no_thread(predictor):
    before = threading.active_count()
    stream = predictor.stream(itertools.repeat(noise(16, 16)))
    first = [next(stream) for _ in range(3)]
    stream.close()
    assert len(first) == 3
    assert threading.active_count() == before
    predictor.predict(noise(16, 16))
    assert threading.active_count() == before


@pytest.mark.parametrize("tile", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("given", [0, 1, 2, 8, 30])
def test_what_an_iterator_raises_comes_behind_the_answers_to_its_images(
    given, batch_size, tile, make_predictor
):
    def camera():
        for level in range(given):
            yield np.full((8, 8, 3), level, np.uint8)
        raise TimeoutError("no image in 10 s")

    before = threading.active_count()
    predictor = make_predictor(batch_size=batch_size, tile=tile)
    for answers in (predictor.stream(camera()), predictor.measure(camera())):
        scores = [answer.score for answer in itertools.islice(answers, given)]
        assert scores == pytest.approx(np.arange(given) / 255)
        with pytest.raises(TimeoutError, match="no image in 10 s"):
            next(answers)
        assert threading.active_count() == before
    with pytest.raises(TimeoutError, match="no image in 10 s"):
        predictor.predict(camera())


def test_what_a_backend_raises_comes_behind_the_results_of_earlier_batches(make_predictor):
    def backend(images):
        if images.max() > 5:
            raise ValueError("out of memory")
        return images[..., 0].astype(np.float32) / 255

    images = [np.full((8, 8, 3), level, np.uint8) for level in range(9)]
    answers = make_predictor(backend, batch_size=3).stream(images)
    assert [answer.path for answer in itertools.islice(answers, 6)] == [
        f"image {number}" for number in range(6)
    ]
    with pytest.raises(ValueError, match="out of memory"):
        next(answers)


def test_a_failing_backend_is_not_hidden(make_predictor):
    def backend(images):
        raise ValueError("out of memory")

    with pytest.raises(ValueError, match="out of memory"):
        make_predictor(backend).predict([noise(8, 8)])


def test_measuring_gives_maps_and_scores_without_a_decision(predictor):
    images = [noise(64, 64, seed=k) for k in range(3)]
    measured = list(predictor.measure(images))
    results = predictor.predict(images)
    for one, result in zip(measured, results, strict=True):
        np.testing.assert_array_equal(one.anomaly_map, result.anomaly_map)
        assert one.score == result.score
        assert not hasattr(one, "is_defective")


# --- opening


def test_loading_refuses_what_is_no_bundle(tmp_path):
    for way in (load, destseg.load):
        with pytest.raises(BundleError):
            way(tmp_path / "nothing")


def test_loading_opens_the_backend_that_was_asked_for(tmp_path, monkeypatch):
    settings = destseg.Settings.from_preset(image_size=64)
    saved = save_bundle(tmp_path, settings, {}, {})
    save_calibration(saved, Calibration.fit([0.5], [0.5], ["a"], settings, saved.weights_sha256))
    opened = []

    def fake(bundle, runtime):
        opened.append((bundle.folder, runtime))
        return lambda images: images[..., 0].astype(np.float32) / 255

    monkeypatch.setattr("destseg.inference.predictor.open_backend", fake)
    predictor = load(str(tmp_path), device="cpu", threads=2, cache="c", batch_size=3)
    assert opened == [(tmp_path, Runtime("torch", "cpu", 2, Path("c")))]
    assert predictor.backend_name == "torch"
    assert predictor.batch_size == 3
    assert predictor.calibration.threshold == 0.5 + TOLERANCE
    assert predictor.predict(np.full((9, 9, 3), 255, np.uint8)).is_defective


def test_a_backend_that_does_not_fit_the_weights_is_a_bundle_error(tmp_path, tiny_settings):
    saved = save_bundle(tmp_path, tiny_settings, {"w": np.zeros(3, np.float32)}, {})
    with pytest.raises(BundleError, match="do not fit"):
        open_backend(saved, Runtime(device="cpu"))


def test_any_callable_is_a_backend(make_predictor):
    backend = types.SimpleNamespace(run=lambda x: np.ones(x.shape[:3], np.float32))
    assert Predictor(make_predictor().bundle, backend.run).predict(noise(8, 8)).score == 1
