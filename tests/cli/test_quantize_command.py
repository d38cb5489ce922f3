import sys
from types import SimpleNamespace

import pytest

import destseg.exporting
from destseg.cli.main import main
from destseg.errors import BundleError
from destseg.inference.bundle import load_bundle


def test_values_out_of_range_are_all_told_before_any_work(tmp_path, capsys):
    words = ["quantize", str(tmp_path / "none"), str(tmp_path), "--images", "1"]
    assert main([*words, "--max-drop", "-0.5"]) == 2
    err = capsys.readouterr().err
    assert "--images: expected at least 2, got 1" in err
    assert "--max-drop: expected at least 0, got -0.5" in err
    assert main(words) == 2
    assert main([*words[:3], "--max-drop", "nan"]) == 2
    assert main([*words[:3], "--scope", "some"]) == 2
    assert main([*words[:3], "--to", "torch"]) == 2


def test_a_missing_bundle_is_told(tmp_path, capsys):
    assert main(["quantize", str(tmp_path / "none"), str(tmp_path)]) == 1
    assert "expected the folder of a trained model" in capsys.readouterr().err


def test_arguments_arrive_and_figures_are_told(brightness_model, tmp_path, monkeypatch, capsys):
    module = pytest.importorskip("destseg.exporting.quantize", reason="the extra train is missing")
    asked = {}
    facts = {
        "scope": "decoder and head, encoders in fp32",
        "synthetic": {
            "image_auroc": (0.99, 0.985),
            "pixel_ap": (0.8, 0.79),
            "score_correlation": 0.9876,
            "p_value_difference": 0.0123,
            "other_decisions": 0.05,
        },
        "labelled": {"image_auroc": (1.0, 0.9999), "pixel_ap": (0.7, 0.71)},
        "milliseconds": (10.0, 4.0),
    }
    calibration = load_bundle(brightness_model).calibration

    def quantize(bundle, data, to, *, on_step, **options):
        asked.update(options, to=to, data=data, folder=bundle.folder)
        on_step("quantising")
        return SimpleNamespace(
            facts=facts, calibration=calibration, model="m.onnx", name="onnx-int8"
        )

    monkeypatch.setattr(module, "quantize", quantize)
    words = ["quantize", str(brightness_model), str(tmp_path), "--to", "onnx"]
    options = ["--max-drop", "0.02", "--scope", "head", "--images", "9", "--vnni"]
    assert main([*words, *options]) == 0
    assert asked == {
        "to": "onnx",
        "data": tmp_path,
        "folder": brightness_model,
        "max_drop": 0.02,
        "scope": "head",
        "count": 9,
        "vnni": True,
    }
    out, err = capsys.readouterr()
    assert err == "quantising\n"
    assert out.splitlines() == [
        "quantised: decoder and head, encoders in fp32",
        "good images and synthetic anomalies: image AUROC 0.9900 -> 0.9850, "
        "pixel AP 0.8000 -> 0.7900",
        "labelled images: image AUROC 1.0000 -> 0.9999, pixel AP 0.7000 -> 0.7100",
        "scores correlate to 0.9876, p-values differ by 0.0123 in the mean, 5.0% of decisions "
        "differ",
        "an image takes 4.0 ms instead of 10.0 (2.50x)",
        "threshold 0.3001, at most 25.00% false alarms",
        "written: m.onnx; use it with --backend onnx-int8",
    ]


def test_a_refusal_is_exit_code_1(brightness_model, tmp_path, monkeypatch, capsys):
    module = pytest.importorskip("destseg.exporting.quantize", reason="the extra train is missing")

    def quantize(*_, **__):
        raise BundleError("INT8 loses more")

    monkeypatch.setattr(module, "quantize", quantize)
    assert main(["quantize", str(brightness_model), str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "destseg: error: INT8 loses more\n")


@pytest.mark.parametrize("missing", ["torch", "onnx"])
def test_without_the_extra_it_is_named(missing, brightness_model, tmp_path, monkeypatch, capsys):
    # As on a machine where neither it nor what needs it was ever imported.
    monkeypatch.setattr(destseg, "export", destseg.export)  # to have it back afterwards
    for name in [name for name in sys.modules if name.startswith("destseg.exporting")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["quantize", str(brightness_model), str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "Install the extra 'export' with: pip install" in err
    assert repr(missing) in err
