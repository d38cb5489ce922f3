"""What tests of several folders share: a few small images, and settings that train in a second.

The folders are made once a worker; a test that changes images makes its own with
``write_images``.
"""

import contextlib
import gc
import importlib.util
import os
import signal
import sqlite3
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import numpy as np
import pytest
from PIL import Image

from destseg.config import Settings
from destseg.inference.bundle import Bundle, load_bundle

# How long an example takes says as much of what else the machine does as of the program.
hypothesis.settings.register_profile("destseg", deadline=None)
hypothesis.settings.load_profile("destseg")

# Ray's workers yield to all other processes, the tests beside them too, which then take minutes.
os.environ.setdefault("RAY_worker_niceness", "0")

IN_CI = any(os.environ.get(name) for name in ("CI", "DESTSEG_CI"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Imports make a million objects that stay: nobody needs to look for garbage among them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test fails: all that tests need is installed there, but for a GPU."""
    report = yield
    if item.get_closest_marker("gpu") is None:
        fail_where_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """So does a file of tests that is skipped as a whole."""
    report = yield
    fail_where_skipped(report)
    return report


def fail_where_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a failure of a skip in CI; an expected failure stays one."""
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"only a missing GPU may skip a test in CI, got: {reason}"


TINY_NETWORK = "test_efficientnet"  # timm's own test network: 82,300 weights, strides 4 to 32


def write_images(folder: Path, count: int, *, side: int = 64, seed: int = 0) -> Path:
    """Write parts: a bright disc on a darker ground, each a little different, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - side / 2
    for number in range(count):
        centre = random.uniform(-3, 3, 2)
        disc = np.hypot(y - centre[0], x - centre[1]) < side / 3
        colour = np.where(disc[..., None], (200, 190, 170), (60, 70, 80))
        noisy = colour + random.normal(0, 6, (side, side, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03}.png")
    return folder


def load_script(path: Path) -> ModuleType:
    """Return a script that lies in no package as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_category(folder: Path, seed: int) -> Path:
    """Write a category in MVTec's layout: 9 good parts, and 2 of each type to test on."""
    write_images(folder / "train/good", 9, seed=seed)
    write_images(folder / "test/good", 2, seed=seed + 10)
    write_images(folder / "test/hole", 2, seed=seed + 20)
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    for number in range(2):
        path = folder / f"ground_truth/hole/{number:03}_mask.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    return folder


def write_red(path: Path, red: int = 0, size: tuple[int, int] = (20, 30)) -> Path:
    """Write an image whose score is red / 255 to a model whose map is the red channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*size, 3), 50, np.uint8)
    image[..., 0] = red
    Image.fromarray(image).save(path)
    return path


@pytest.fixture
def own_handler() -> Iterator[list[int]]:
    """A program's own handler of SIGTERM; gives what it was called with."""
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    yield seen
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def disk_of() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """Inside, no file gets larger than a number of bytes, as if the disk were full then."""
    import resource  # not on Windows

    @contextlib.contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 good images of 64 x 64; not to be written to."""
    return write_images(tmp_path_factory.mktemp("parts"), 12)


@pytest.fixture(scope="session")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 5 textures; not to be written to."""
    folder = tmp_path_factory.mktemp("textures")
    random = np.random.default_rng(1)
    for number in range(5):
        pixels = random.integers(0, 256, (80, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_settings(textures: Path) -> Settings:
    """The preset fast with tiny networks, 64 px and three steps a phase."""
    return Settings.from_preset(
        "fast",
        image_size=64,
        calibration_minimum=3,
        rotation=5.0,
        quarter_turns=True,
        teacher=TINY_NETWORK,
        student_width=8,
        head_width=8,
        surface_width=8,
        textures=str(textures),
        batch_size=4,
        denoise_steps=3,
        segment_steps=3,
        warmup_steps=2,
        log_every=1,
        device="cpu",
    )


@pytest.fixture(scope="session")
def tiny_teacher_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with seeded random weights of the whole tiny network, for ``teacher_weights``."""
    import safetensors.torch
    import timm
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(5)
        state = timm.create_model(TINY_NETWORK).state_dict()
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    safetensors.torch.save_file(state, path)
    return path


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Inside is one of the workers that share a folder; the others wait."""
    with contextlib.closing(sqlite3.connect(folder / "lock", timeout=600)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        yield


def shared_by_workers(folders: pytest.TempPathFactory) -> Path:
    """Return a folder of this run of the tests, the same for all its workers."""
    own = folders.getbasetemp()  # a worker's is in that of the run
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def made_once(name: str, make: Callable[[Path], object], folders: pytest.TempPathFactory) -> Path:
    """Return a folder that the first worker to need it makes for all; not to be written to."""
    place = shared_by_workers(folders)
    folder = place / name
    with one_at_a_time(place):
        if not folder.is_dir():
            made = folders.mktemp(name) / "made"
            make(made)
            made.rename(folder)  # in one step: what is there is whole
    return folder


@pytest.fixture(scope="session")
def quantisable_bundle(
    parts: Path, tiny_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """A bundle with random weights, exported to ONNX and OpenVINO; not to be written to.

    It was not trained, but calibrated on 3 of the 12 parts; the head's last layer is enlarged so
    that its map is not the same everywhere.  The first worker that needs it makes it for all.
    """
    pytest.importorskip("onnxscript", reason="the extra export is not installed")
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    return load_bundle(
        made_once(
            "quantisable",
            lambda folder: make_quantisable(folder, parts, tiny_settings),
            tmp_path_factory,
        )
    )


def make_quantisable(folder: Path, parts: Path, settings: Settings) -> None:
    import torch

    from destseg.exporting.export import export
    from destseg.inference.backends.torch_ import TorchBackend
    from destseg.inference.bundle import save_bundle, save_calibration
    from destseg.inference.calibrate import fit_calibration
    from destseg.inference.predictor import Predictor
    from destseg.model.destseg import build_model

    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = build_model(settings.model, image_size=(64, 64)).eval()
        images = torch.randint(0, 256, (8, 3, 64, 64))
        with torch.no_grad():
            logits = model.segment(images)
            model.head.classify.weight *= 2 / logits.std()
            logits = model.segment(images)
            model.head.classify.bias -= logits.mean()
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    bundle = save_bundle(folder, settings, weights, {})
    names = [f"{number:03}.png" for number in (2, 5, 11)]
    calibration = fit_calibration(
        Predictor(bundle, TorchBackend(model, "cpu")),
        [parts / name for name in names],
        names,
        settings,
        bundle.weights_sha256,
    )
    bundle = save_calibration(bundle, calibration)
    export(bundle, "onnx")
    export(bundle, "openvino")
