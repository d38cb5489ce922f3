"""Networks that work with sizes, traced at one of them and run at others."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from destseg.errors import BundleError
from destseg.exporting.free_sizes import WRONG_SIZE
from destseg.exporting.graph import to_onnx


class Sizes(nn.Module):
    """Gives a map [n, 1, h, w] of images [n, 3, h, w] by some function of both."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images.float() / 255)


def windows(x: Tensor) -> Tensor:
    """Attention's way: batch, height and width of the windows in one axis, and back."""
    n, c, h, w = x.shape
    parts = x.view(n, c, h // 8, 8, w // 8, 8).permute(0, 2, 4, 3, 5, 1).reshape(-1, 64, c)
    parts = torch.softmax(parts, 1)
    parts = parts.view(n, h // 8, w // 8, 8, 8, c).permute(0, 5, 1, 3, 2, 4)
    return parts.reshape(n, c, h, w)[:, :1]


def flat(x: Tensor) -> Tensor:
    """Every pixel of a batch in one axis."""
    n, c, h, w = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(n * h * w, c)
    return pixels.max(1).values.view(n, 1, h, w)


def spread(x: Tensor) -> Tensor:
    """A mean joined to each pixel, and another size on the way."""
    n, c, h, w = x.shape
    smaller = F.interpolate(x, size=(h // 4, w // 2), mode="bilinear")
    mean = smaller.mean((2, 3), keepdim=True).expand(n, c, h, w)
    return torch.cat([x, mean], 1).amax(1, keepdim=True)


def halves(x: Tensor) -> Tensor:
    """Cut in the middle and put together the other way round."""
    h = x.shape[2] // 2
    return torch.cat([x[:, :1, h:], x[:, :1, :h]], 2)


def test_what_a_network_does_with_sizes_is_done_with_those_of_the_image():
    import onnxruntime

    # One network of all of them, since tracing is what takes time.
    def everything(x: Tensor) -> Tensor:
        return windows(x) + 2 * flat(x) + 4 * spread(x) + 8 * halves(x)

    network = Sizes(everything)
    session = onnxruntime.InferenceSession(to_onnx(network, {}).SerializeToString())
    for size in ((1, 32, 32), (3, 64, 160), (2, 96, 32)):
        images = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2))[:, 0]
        (maps,) = session.run(None, {"images": images})
        np.testing.assert_allclose(maps, expected.numpy(), atol=1e-5)


def test_a_network_that_needs_no_size_is_held_to_whole_ones_too():
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is refused is said by the error
    proto = to_onnx(Sizes(lambda x: x[:, :1] * 2), {})
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 160, 3), dtype=np.uint8)
    (maps,) = session.run(None, {"images": images})
    np.testing.assert_allclose(maps, images[..., 0] / 127.5, atol=1e-5)
    for height, width in ((97, 160), (96, 161), (33, 64), (100, 160)):
        wrong = np.zeros((1, height, width, 3), np.uint8)
        with pytest.raises(Exception, match=WRONG_SIZE):
            session.run(None, {"images": wrong})


def pooled(x: Tensor) -> Tensor:
    """The highest value of an image, by a window of its size."""
    return x[:, :1] - F.max_pool2d(x[:, :1], x.shape[2:])


def ramp(x: Tensor) -> Tensor:
    """A position in pixels, which the exporter works out beforehand."""
    return x[:, :1] + torch.arange(x.shape[3]) / 100


@pytest.mark.parametrize(
    ("function", "what"),
    [(pooled, r"(kernel_shape|strides) of a node MaxPool"), (ramp, r"a table of \[\d+\]")],
)
def test_a_size_that_is_a_constant_in_onnx_is_refused(function, what):
    with pytest.raises(BundleError, match=f"for images of any size: it has {what}, which depends"):
        to_onnx(Sizes(function), {})
