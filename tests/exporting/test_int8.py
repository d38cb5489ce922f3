import functools
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import destseg.exporting.int8 as module
from destseg.config import Settings
from destseg.data.images import read_image
from destseg.data.roi import Roi
from destseg.errors import DataError, MissingExtraError
from destseg.exporting.int8 import SCOPES, good_and_anomalous, quantized
from destseg.inference.backends import Runtime, open_backend
from destseg.inference.exports import Export, load_export, save_export

SETTINGS = Settings.from_preset(image_size=64)


@pytest.fixture(scope="module", autouse=True)
def textures_once():
    """Cutting the photographs takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_textures", functools.cache(module.load_textures))
        yield


@pytest.fixture(scope="module")
def made(parts):
    images, masks, inspected = good_and_anomalous(
        sorted(parts.iterdir())[:8], SETTINGS, None, seed=0
    )
    assert np.all(inspected)
    return np.stack(images), np.stack(masks)


def test_every_second_image_is_anomalous_where_its_mask_says(parts, made):
    images, masks = made
    assert (images.shape, images.dtype) == ((8, 64, 64, 3), np.uint8)
    assert (masks.shape, masks.dtype) == ((8, 64, 64), np.bool_)
    clean = np.stack([read_image(path, max_pixels=2**20) for path in sorted(parts.iterdir())[:8]])
    np.testing.assert_array_equal(images[::2], clean[::2])
    assert not masks[::2].any()
    assert masks[1::2].any((1, 2)).all()
    np.testing.assert_array_equal(images[~masks], clean[~masks])
    changed = (images != clean).any(-1)[masks]
    assert changed.mean() > 0.9


def test_anomalies_are_of_the_seed(parts, made):
    paths = sorted(parts.iterdir())[:8]
    again, masks, _ = good_and_anomalous(paths, SETTINGS, None, seed=0)
    np.testing.assert_array_equal(again, made[0])
    np.testing.assert_array_equal(masks, made[1])
    other, other_masks, _ = good_and_anomalous(paths, SETTINGS, None, seed=1)
    np.testing.assert_array_equal(other[::2], made[0][::2])
    assert (np.stack(other_masks) != made[1]).any()


def test_one_readable_image_cannot_be_both_good_and_anomalous(parts, tmp_path):
    (tmp_path / "words.png").write_text("words")
    paths = [next(parts.iterdir()), tmp_path / "words.png"]
    with pytest.raises(DataError, match=r"at least 2 good images .* got 1 of 2"):
        good_and_anomalous(paths, SETTINGS.replace(skip_unreadable=True), None, seed=0)


def test_scopes_leave_more_and_more_in_fp32():
    assert [scope.name for scope in SCOPES] == ["all", "convolutions", "head"]
    for scope in SCOPES:
        assert "model/.*" in scope.kept


ENCODERS = ("model.teacher.", "model.student.encoder.")
ENDS = tuple(
    f"{encoder}features.{name}" for encoder in ENCODERS for name in ("conv_stem/", "blocks.0.")
)
ENDS += ("model.head.classify/", "model.surface.classify/")


@pytest.mark.parametrize(("runtime", "missing"), [("openvino", "nncf"), ("onnx", "onnxruntime")])
def test_a_missing_quantiser_names_the_extra(runtime, missing, monkeypatch, tmp_path, made):
    monkeypatch.setitem(sys.modules, missing, None)
    form = Export(runtime, tmp_path, {"model": ""}, "")
    with pytest.raises(MissingExtraError, match="extra 'export' with: pip install") as caught:
        quantized(None, form, made[0], SCOPES[0], vnni=False)
    assert caught.value.extra == "export"
    assert missing in str(caught.value)


# --- with the tiny network, really quantised


@pytest.fixture(scope="session")
def int8(quantisable_bundle, parts, tmp_path_factory):
    """Returns the bundle with one INT8 form, by runtime, scope and width; each is made once."""
    images, *_ = good_and_anomalous(
        sorted(parts.iterdir())[:8], quantisable_bundle.settings, None, seed=0
    )
    images = np.stack(images)
    done = {}

    def make(runtime, scope, *, vnni=False):
        key = runtime, scope, vnni
        if key not in done:
            source = load_export(quantisable_bundle, runtime)
            (wanted,) = (each for each in SCOPES if each.name == scope)
            files = quantized(quantisable_bundle, source, images, wanted, vnni=vnni)
            bundle = replace(quantisable_bundle, folder=tmp_path_factory.mktemp("int8"))
            done[key] = bundle, save_export(bundle, f"{runtime}-int8", files, {})
        return done[key]

    return make


class Graph:
    """An ONNX file by what makes and what takes each value."""

    def __init__(self, path):
        import onnx
        from onnx import numpy_helper

        self.graph = onnx.load(path).graph
        self.weights = {w.name: numpy_helper.to_array(w) for w in self.graph.initializer}
        self.maker = {name: node for node in self.graph.node for name in node.output}
        self.kinds = Counter(node.op_type for node in self.graph.node)

    def convolutions(self):
        """Yields the name of each and its INT8 weights, or None where they are in fp32."""
        for node in self.graph.node:
            if node.op_type == "Conv":
                maker = self.maker.get(node.input[1])
                yield node.name, self.weights[maker.input[0]] if maker is not None else None

    def rounded(self):
        """Returns the nodes whose output is rounded to 8 bits, by name."""
        sources = [n.input[0] for n in self.graph.node if n.op_type == "QuantizeLinear"]
        return {self.maker[name].name: self.maker[name] for name in sources if name in self.maker}


def is_there(weights):
    return weights is not None


@pytest.mark.slow
def test_onnx_convolutions_have_8_bit_weights(int8, quantisable_bundle):
    fp32 = Graph(load_export(quantisable_bundle, "onnx").model)
    assert fp32.kinds["QuantizeLinear"] == 0
    graph = Graph(int8("onnx", "all")[1].model)
    found = dict(graph.convolutions())
    assert len(found) == fp32.kinds["Conv"]
    for name, weights in found.items():
        assert (weights is None) is name.startswith(ENDS), name
    for weights in filter(is_there, found.values()):
        assert weights.dtype == np.int8
        # 7 bits: two products of 8 add up to more than 16 bits without VNNI.
        assert -64 <= weights.min() <= weights.max() <= 64
    full = dict(Graph(int8("onnx", "all", vnni=True)[1].model).convolutions())
    rounded = filter(is_there, full.values())
    assert max(np.abs(weights.astype(int)).max() for weights in rounded) == 127


@pytest.mark.slow
def test_onnx_sums_stay_in_fp32_where_asked(int8):
    every, less = (Graph(int8("onnx", scope)[1].model) for scope in ("all", "convolutions"))

    def sums(graph):
        """Sums whose both terms come rounded."""
        return [
            node.name
            for node in graph.graph.node
            if node.op_type == "Add"
            and all(graph.maker[name].op_type == "DequantizeLinear" for name in node.input)
        ]

    assert len(sums(every)) > len(sums(less))
    assert {name for name, weights in less.convolutions() if weights is None} == {
        name for name, weights in every.convolutions() if weights is None
    }


@pytest.mark.slow
def test_onnx_encoders_stay_in_fp32_in_the_smallest_scope(int8):
    found = dict(Graph(int8("onnx", "head")[1].model).convolutions())
    assert {name.startswith(ENCODERS) for name in found} == {True, False}
    for name, weights in found.items():
        assert (weights is None) is name.startswith((*ENCODERS, *ENDS))


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["all", "head"])
def test_onnx_norms_and_the_map_are_not_rounded(scope, int8):
    graph = Graph(int8("onnx", scope)[1].model)
    for node in graph.graph.node:
        if node.op_type in ("ReduceL2", "Clip", "Expand") and node.name.startswith("model/"):
            assert node.name not in graph.rounded()
    output = graph.graph.output[0].name
    assert graph.maker[output].op_type != "DequantizeLinear"
    assert final(graph).name not in graph.rounded()


def final(graph):
    """The sigmoid that the map comes from."""
    node = graph.maker[graph.graph.output[0].name]
    while node.op_type != "Sigmoid":
        node = graph.maker[node.input[0]]
    return node


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["all", "head"])
def test_openvino_rounds_convolutions_and_no_norms(scope, int8, quantisable_bundle):
    import openvino

    pytest.importorskip("nncf", reason="the extra export is not installed")
    core = openvino.Core()
    fp32 = core.read_model(load_export(quantisable_bundle, "openvino").model)
    assert not [op for op in fp32.get_ops() if op.get_type_name() == "FakeQuantize"]
    bundle, form = int8("openvino", scope)
    assert list(form.files) == ["model.xml", "model.bin"]
    model = core.read_model(form.model)
    rounded = {}
    for op in model.get_ops():
        if "Convolution" in op.get_type_name():
            rounded[op.get_friendly_name()] = reaches(op.input(0), "FakeQuantize")
        elif op.get_type_name() == "ReduceL2":
            assert not reaches(op.input(0), "FakeQuantize"), op.get_friendly_name()
    assert any(rounded.values())
    for name, is_rounded in rounded.items():
        if name.startswith((*ENDS, *ENCODERS) if scope == "head" else ENDS):
            assert not is_rounded, name
        elif name.startswith("model.surface.whole."):
            continue  # it joins places with the image's mean; NNCF leaves that in fp32
        elif scope == "all" or name.startswith("model.head."):
            assert is_rounded, name
    # What the file says of itself stays with it.
    assert model.get_rt_info(["destseg", "weights_sha256"]).value == bundle.weights_sha256


def reaches(port, kind):
    """Whether a value comes straight from a kind of operation."""
    return port.get_source_output().get_node().get_type_name() == kind


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "scope"), [("onnx", "all"), ("onnx", "head"), ("openvino", "head")]
)
def test_maps_are_close_to_those_of_fp32_and_not_the_same(
    runtime, scope, int8, quantisable_bundle, made
):
    bundle, form = int8(runtime, scope)
    expected = open_backend(quantisable_bundle, Runtime("torch", "cpu"))(made[0])
    maps = open_backend(bundle, Runtime(form.name, "cpu"))(made[0])
    assert maps.shape == expected.shape
    difference = np.abs(maps - expected)
    assert difference.max() > 1e-4
    assert difference.mean() < 0.05 < expected.std()
    assert np.corrcoef(maps.ravel(), expected.ravel())[0, 1] > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_sides_that_are_no_multiples_of_32_are_refused_in_int8_too(runtime, int8):
    bundle, form = int8(runtime, "all")
    backend = open_backend(bundle, Runtime(form.name, "cpu"))
    assert backend(np.zeros((1, 96, 160, 3), np.uint8)).shape == (1, 96, 160)
    for size in ((97, 161), (33, 64), (100, 160)):
        with pytest.raises(Exception, match="height_and_width_must_be_multiples_of_32"):
            backend(np.zeros((1, *size, 3), np.uint8))


@pytest.mark.parametrize("tile", [False, True])
def test_images_to_measure_ranges_on_are_of_the_networks_size(tile, tiny_settings, tmp_path):
    paths = []
    for number, size in enumerate([(70, 90), (64, 64), (40, 50), (200, 80)]):
        paths.append(tmp_path / f"{number}.png")
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(paths[-1])
    settings = tiny_settings.replace(tile=tile)
    made, masks, _ = map(np.stack, good_and_anomalous(paths, settings, None, seed=0))
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


def test_what_is_added_to_an_image_is_not_there(tmp_path):
    """Images of 32 x 64 lie in the upper half of 64 x 64."""
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    settings = SETTINGS.replace(fit="pad")
    left = np.zeros((32, 64), bool)
    left[:, :20] = True
    for roi in (None, Roi(left)):
        images, where, inspected = good_and_anomalous(
            sorted(tmp_path.iterdir()), settings, roi, seed=0
        )
        assert {image.shape for image in images} == {(32, 64, 3)}
        assert {mask.shape for mask in where} == {(32, 64)}
        assert all(np.array_equal(each, left | (roi is None)) for each in inspected)
        assert np.any(where)
        assert not np.any(np.stack(where) & ~np.stack(inspected))


# --- with a region of interest


def places(folder, height, width, count=16):
    """Images whose red and green say which row and column a pixel is of."""
    folder.mkdir()
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, np.full_like(rows, 100)], -1).astype(np.uint8)
    for number in range(count):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return sorted(folder.iterdir())


def region(height, width, *windows):
    mask = np.zeros((height, width), bool)
    for window in windows:
        mask[window] = True
    return Roi(mask)


def test_a_tile_has_its_own_part_of_the_region(tmp_path):
    # In two corners: in the middle of their box there is nothing to inspect.
    roi = region(240, 250, np.s_[:20, :20], np.s_[-20:, -20:])
    paths = places(tmp_path / "good", 240, 250)
    tiled = SETTINGS.replace(tile=True)
    images, masks, inspected = good_and_anomalous(paths, tiled, roi, seed=0)
    corners = set()
    for image, mask, there in zip(images, masks, inspected, strict=True):
        good = image[~mask]
        where = roi.mask[good[:, 0], good[:, 1]]
        np.testing.assert_array_equal(there[~mask], where)
        assert there.any()
        assert there[mask].all()
        corners.add(good[0, 0] > 120)
    assert corners == {True, False}


@pytest.mark.parametrize("tile", [False, True])
def test_anomalies_lie_in_a_small_region_too(tile, tmp_path):
    roi = region(100, 200, np.s_[40:56, 150:170])
    paths = places(tmp_path / "good", 100, 200)
    settings = SETTINGS.replace(tile=tile)
    _, masks, inspected = good_and_anomalous(paths, settings, roi, seed=0)
    assert not any(mask[~there].any() for mask, there in zip(masks, inspected, strict=True))
    assert not np.any(masks[::2])
    assert all(mask.any() for mask in masks[1::2])
    if not tile:
        assert all(np.array_equal(there, roi.at((64, 64))) for there in inspected)


def test_every_second_image_is_anomalous_where_training_shows_some_without(parts):
    settings = SETTINGS.replace(anomaly_probability=0.1)
    _, masks, _ = good_and_anomalous(sorted(parts.iterdir())[:8], settings, None, seed=0)
    assert all(mask.any() for mask in masks[1::2])
