"""A bundle of the tiny network that is exported for both runtimes, made once a worker."""

from pathlib import Path

import pytest

from destseg.config import Settings
from destseg.inference.bundle import Bundle


@pytest.fixture(scope="session")
def quantisable_bundle(
    parts: Path, tiny_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """A bundle with random weights, exported to ONNX and OpenVINO; not to be written to.

    It was not trained, but calibrated on 3 of the 12 parts; the head's last layer is enlarged so
    that its map is not the same everywhere.
    """
    pytest.importorskip("onnxscript", reason="the extra export is not installed")
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    import torch

    from destseg.export.export import export, metadata_of, openvino_files
    from destseg.inference.backends.torch_ import TorchBackend
    from destseg.inference.bundle import save_bundle, save_calibration
    from destseg.inference.calibrate import fit_calibration
    from destseg.inference.exports import save_export
    from destseg.inference.predictor import Predictor
    from destseg.model.destseg import build_model

    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = build_model(tiny_settings.model, image_size=64).eval()
        pictures = torch.randint(0, 256, (8, 3, 64, 64))
        with torch.no_grad():
            logits = model.segment(pictures)
            model.head.classify.weight *= 2 / logits.std()
            logits = model.segment(pictures)
            model.head.classify.bias -= logits.mean()
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    folder = tmp_path_factory.mktemp("quantisable") / "model"
    bundle = save_bundle(folder, tiny_settings, weights, {})
    names = [f"{number:03}.png" for number in (2, 5, 11)]
    calibration = fit_calibration(
        Predictor(bundle, TorchBackend(model, "cpu")),
        [parts / name for name in names],
        names,
        tiny_settings,
        bundle.weights_sha256,
    )
    bundle = save_calibration(bundle, calibration)
    import openvino

    # One graph for both: tracing it takes most of the time.
    made = export(bundle, "onnx")
    converted = openvino.convert_model(made.model)
    save_export(bundle, "openvino", openvino_files(converted, metadata_of(bundle)), {})
    return bundle
