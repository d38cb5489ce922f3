"""``destseg export`` and ``destseg doctor`` on a bundle that is exported for both runtimes."""

import shutil
from dataclasses import replace

import pytest

from destseg.cli.main import main
from destseg.inference.bundle import load_bundle
from destseg.inference.exports import find_exports, load_export, save_export


@pytest.fixture
def copied(quantisable_bundle, tmp_path):
    """The bundle, to be written to."""
    shutil.copytree(quantisable_bundle.folder, tmp_path / "model")
    return replace(quantisable_bundle, folder=tmp_path / "model")


def run(capsys, *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_doctor_finds_all_forms_the_same(copied, parts, capsys):
    code, out, _ = run(capsys, "doctor", copied.folder, "--data", parts, "--limit", 3)
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "reference" in lines["torch"] or "reference" in out
    assert out.count(" same") >= 2
    assert "decide differently" not in out


def test_the_doctor_says_which_images_it_could_not_read(copied, parts, tmp_path, capsys):
    shutil.copy(parts / "004.png", tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"words")
    code, out, err = run(capsys, "doctor", copied.folder, "--data", tmp_path)
    assert code == 1
    assert "bad.png" in err
    assert "differences from torch on 1 image" in out
    assert " same" in out


@pytest.mark.parametrize("limit", [1, 5, 8, 12, 40])
def test_the_doctor_compares_on_images_of_all_of_a_folder(
    limit, copied, parts, capsys, monkeypatch
):
    from destseg.inference import parity

    asked = []
    compare = parity.compare_backends

    def compare_backends(predictors, images):
        asked.extend(images)
        return compare(predictors, images[:1])

    monkeypatch.setattr(parity, "compare_backends", compare_backends)
    run(capsys, "doctor", copied.folder, "--data", parts, "--limit", limit)
    places = [sorted(parts.iterdir()).index(path) for path in asked]
    assert len(set(places)) == len(places) == min(limit, 12)
    assert places[-1] >= 12 - 12 / len(places) - 1
    assert places == sorted(places)


def test_the_doctor_needs_no_bundle(capsys):
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    for runtime in ("torch", "onnx", "openvino", "destseg export"):
        assert runtime in out


def test_a_form_that_differs_fails(copied, capsys):
    import onnx

    proto = onnx.load(load_export(copied, "onnx").model)
    bias = next(each for each in proto.graph.initializer if each.name.endswith("classify.bias"))
    values = onnx.numpy_helper.to_array(bias) + 0.01
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    save_export(copied, "onnx", {"model.onnx": proto.SerializeToString()}, {})
    code, out, _ = run(capsys, "doctor", copied.folder)
    assert code == 1
    assert out.count(" differs") == 1
    code, out, _ = run(capsys, "doctor", copied.folder, "--tolerance", 0.1)
    assert " differs" not in out


def test_a_damaged_form_fails_and_the_others_are_compared(copied, capsys):
    path = load_export(copied, "onnx").model
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    code, out, err = run(capsys, "doctor", copied.folder)
    assert code == 1
    assert "onnx cannot run" in err
    assert "expected SHA-256" in err
    assert out.count(" same") >= 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["--limit", "0"], "--limit"), (["--tolerance", "-1"], "--tolerance")],
)
def test_wrong_numbers_are_refused(words, expected, copied, capsys):
    code, _, err = run(capsys, "doctor", copied.folder, *words)
    assert code == 2
    assert expected in err


def test_export_writes_and_says_what_it_saw(copied, capsys, monkeypatch):
    made = load_export(copied, "onnx").model.read_bytes()
    import onnx

    monkeypatch.setattr(
        "destseg.exporting.graph.to_onnx", lambda *_: onnx.load_model_from_string(made)
    )
    shutil.rmtree(copied.folder / "exports")
    code, out, _ = run(capsys, "export", copied.folder, "--to", "openvino")
    assert code == 0
    assert "largest difference from PyTorch's maps" in out
    assert find_exports(load_bundle(copied.folder)) == ["openvino"]


def test_export_of_nothing_and_to_nowhere(tmp_path, capsys):
    code, _, err = run(capsys, "export", tmp_path / "none", "--to", "onnx")
    assert code == 1
    assert "no such folder" in err
    code, _, err = run(capsys, "export", tmp_path, "--to", "tensorrt")
    assert code == 2
    assert "tensorrt" in err


def test_a_missing_extra_is_named(copied, capsys, monkeypatch):
    import sys

    monkeypatch.delitem(sys.modules, "destseg.exporting.graph", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, _, err = run(capsys, "export", copied.folder, "--to", "onnx")
    assert code == 1
    assert "Install the extra 'export' with: pip install" in err
