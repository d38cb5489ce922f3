import pytest
import timm
import torch

from destseg.config import Settings
from destseg.errors import SettingsError
from destseg.model.backbone import Backbone, whole_network_keys
from destseg.model.destseg import build_model

# name, image side, whether timm's own features have their channels last; random weights
NETWORKS = [
    ("resnet18", 64, False),
    ("convnext_atto", 64, False),
    ("mobilenetv3_small_100", 64, False),
    ("hrnet_w18_small", 64, False),
    ("test_mambaout", 64, True),
    ("test_efficientnet", 96, False),
    pytest.param("swin_tiny_patch4_window7_224", 224, True, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "side", "last"), NETWORKS)
def test_taps_are_the_networks_features_of_each_stride(name, side, last):
    backbone = Backbone(name, (4, 8, 16), image_size=(side, side)).eval()
    whole = timm.create_model(name, features_only=True).eval()
    # timm leaves out what lies behind the last tap: the rest's weights are a part of the whole's.
    assert not whole.load_state_dict(backbone.features.state_dict(), strict=False).unexpected_keys
    x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        taps, everything = backbone(x), whole(x)
    if last:
        everything = [tap.permute(0, 3, 1, 2) for tap in everything]
    by_stride = {side // tap.shape[-1]: tap for tap in everything}
    assert [tap.shape[1] for tap in taps] == backbone.channels
    for stride, tap in zip((4, 8, 16), taps, strict=True):
        assert tap.shape[2:] == (side // stride, side // stride)
        if name != "hrnet_w18_small" or stride == 16:  # finer ones look at the coarsest branch
            torch.testing.assert_close(tap, by_stride[stride])


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", [64, 128, 256]),
        ("tf_efficientnet_lite0", [24, 40, 112]),
        ("convnext_atto", [40, 80, 160]),
        ("swin_tiny_patch4_window7_224", [96, 192, 384]),
        ("hrnet_w18_small", [128, 256, 512]),
    ],
)
def test_channels_of_known_networks(name, channels):
    with torch.device("meta"):
        assert Backbone(name, (4, 8, 16)).channels == channels


def test_a_student_encoder_reaches_stride_32():
    with torch.device("meta"):
        assert Backbone("resnet18", (4, 8, 16, 32)).channels == [64, 128, 256, 512]


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("resnet18.tv_in1k", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("tf_efficientnet_lite0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_colour_statistics_are_those_of_the_weights(name, mean, std):
    with torch.device("meta"):
        backbone = Backbone(name, (4, 8, 16))
    assert (backbone.mean, backbone.std) == (mean, std)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_vit"])
def test_a_network_without_the_strides_is_refused(name):
    with pytest.raises(SettingsError, match=rf"{name}.*strides \[16\]; expected \[4, 8, 16\]"):
        Backbone(name, (4, 8, 16))


@pytest.mark.parametrize("name", ["resnet18x", "", "resnet18.no_such_tag", "timm/resnet18"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(SettingsError, match="expected the name of a timm network"):
        Backbone(name, (4, 8, 16))


def test_an_unknown_name_is_answered_with_similar_ones():
    with pytest.raises(SettingsError, match=r"Similar names: .*tf_efficientnet_lite0"):
        Backbone("efficientnet_lite0.nothing", (4, 8, 16))


def test_given_weights_are_the_networks():
    state = timm.create_model("test_efficientnet").state_dict()
    backbone = Backbone("test_efficientnet", (4, 8, 16), state_dict=state)
    for name, value in backbone.features.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_random_weights_are_drawn_from_torchs_generator():
    def weights(seed):
        torch.manual_seed(seed)
        return Backbone("test_efficientnet", (4, 8)).features.state_dict()["conv_stem.weight"]

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@pytest.mark.parametrize(
    ("name", "classifier"),
    [("resnet18", "fc."), ("tf_efficientnet_lite0", "classifier."), ("convnext_atto", "head.fc.")],
)
def test_whole_network_keys_are_all_but_the_classifiers(name, classifier):
    everything = set(timm.create_model(name).state_dict())
    left_out = everything - whole_network_keys(name)
    assert left_out == {
        key
        for key in everything
        if key.startswith(classifier) or key.endswith("num_batches_tracked")
    }
    assert whole_network_keys(name) <= everything


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "maxvit_pico_rw_256"])
def test_networks_with_windows_take_the_default_image_size(name):
    """By its name alone any network with the strides works at the default 256 x 256."""
    settings = Settings().model
    teacher = Backbone(name, (4, 8, 16))
    model = build_model(settings, teacher).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 256, 256)
