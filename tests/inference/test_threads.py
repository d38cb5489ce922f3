"""One predictor in many threads, several models in one process, a fork: what each gives alone."""

import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from conftest import made_once
from destseg.data.roi import Roi
from destseg.errors import BundleError
from destseg.inference.backends import BACKENDS, Runtime, open_backend
from destseg.inference.bundle import load_bundle, save_bundle, save_calibration
from destseg.inference.exports import load_export, save_export, save_export_calibration
from destseg.inference.predictor import Predictor, load

THREADS = 8
ROUNDING = 1e-6
"""Of a map value: sums that are shared among more threads are added up in another order."""
SIZES = ((64, 64), (96, 70), (70, 96), (130, 130))


@pytest.fixture(scope="module")
def forms(quantisable_bundle, tmp_path_factory):
    """A bundle with all five forms and a region of interest; not to be written to."""
    pytest.importorskip("nncf", reason="the extra export is not installed")
    return load_bundle(
        made_once("forms", lambda folder: make_forms(folder, quantisable_bundle), tmp_path_factory)
    )


def make_forms(folder, bundle):
    from destseg.exporting.int8 import SCOPES, quantized

    weights, mask = bundle.weights(), np.zeros((8, 8), bool)
    mask[1:6, 2:] = True
    made = save_bundle(folder, bundle.settings, weights, {}, Roi(mask))
    shutil.copytree(bundle.folder / "exports", folder / "exports")
    ranges = np.stack([image for image in images(16) if image.shape == (64, 64, 3)])
    for runtime in ("onnx", "openvino"):
        files = quantized(made, load_export(made, runtime), ranges, SCOPES[0], vnni=False)
        save_export(made, f"{runtime}-int8", files, {})
    save_calibration(made, replace(bundle.calibration, roi_sha256=made.roi_sha256))


def images(count, seed=0):
    draw = np.random.default_rng(seed)
    return [
        draw.integers(0, 256, (*SIZES[number % len(SIZES)], 3), dtype=np.uint8)
        for number in range(count)
    ]


def predictor_of(bundle, backend, threads=None, *, plain=True):
    opened = open_backend(bundle, Runtime(backend, "cpu", threads))
    if plain:
        return Predictor(replace(bundle, roi_sha256=None), opened, batch_size=3)
    tiled = bundle.settings.replace(tile=True, tile_overlap=0.25)
    return Predictor(replace(bundle, settings=tiled), opened, batch_size=3)


def at_once(calls, threads=THREADS):
    """Call all of them, the threads of a pool side by side from the first on."""
    together = threading.Barrier(threads)

    def begin():
        together.wait(60)

    with ThreadPoolExecutor(threads, initializer=begin) as pool:
        return [future.result(120) for future in [pool.submit(call) for call in calls]]


def require_same(got, expected, rounding=0.0):
    np.testing.assert_allclose(got.anomaly_map, expected.anomaly_map, rtol=0, atol=rounding)
    assert got.score == pytest.approx(expected.score, rel=0, abs=rounding)
    if not rounding:
        assert got.to_json() == expected.to_json()


@pytest.mark.parametrize("plain", [True, False], ids=["whole", "tiles and region"])
@pytest.mark.parametrize("threads", [1, None])
@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_get_what_one_alone_gets(backend, threads, plain, forms):
    predictor = predictor_of(forms, backend, threads, plain=plain)
    given = images(8)
    expected = [predictor.predict(image) for image in given]
    maps = {result.anomaly_map.tobytes() for result in expected}
    assert len(maps) == len(given), "nothing could be mixed up"
    order = [number for number in range(len(given)) for _ in range(4)]
    random.Random(0).shuffle(order)
    got = at_once([lambda n=n: predictor.predict(given[n]) for n in order])
    for number, result in zip(order, got, strict=True):
        # One thread of a runtime adds up in one order alone.
        require_same(result, expected[number], 0.0 if threads == 1 else ROUNDING)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_of_several_streams_are_kept_apart(backend, forms):
    predictor = predictor_of(forms, backend, 1)
    sets = [images(7, seed) for seed in range(THREADS)]
    expected = [list(predictor.stream(each)) for each in sets]
    got = at_once([lambda each=each: list(predictor.stream(each)) for each in sets])
    for mine, alone in zip(got, expected, strict=True):
        for result, other in zip(mine, alone, strict=True):
            require_same(result, other)


def test_models_in_one_process_do_not_disturb_one_another(forms):
    import torch

    from destseg.inference.backends.torch_ import TorchBackend, load_model

    other = load_model(forms)
    with torch.no_grad():
        other.head.classify.weight *= -1
    before = torch.get_num_threads()
    predictors = [
        *(predictor_of(forms, backend, 1) for backend in BACKENDS),
        Predictor(replace(forms, roi_sha256=None), TorchBackend(other, "cpu", threads=2)),
    ]
    given = images(4)
    expected = [[predictor.predict(image) for image in given] for predictor in predictors]
    assert abs(expected[0][0].score - expected[-1][0].score) > 1e-3
    pairs = [(p, n) for p in range(len(predictors)) for n in range(len(given))] * 3
    random.Random(1).shuffle(pairs)
    got = at_once([lambda p=p, n=n: predictors[p].predict(given[n]) for p, n in pairs])
    for (p, n), result in zip(pairs, got, strict=True):
        require_same(result, expected[p][n], ROUNDING)
    assert torch.get_num_threads() == before


def test_models_are_opened_side_by_side(forms):
    """Nothing that runtimes or PyTorch's generator keep for the process is mixed up."""
    import torch

    state = torch.get_rng_state()
    given = images(1)[0]
    backends = [*BACKENDS, *BACKENDS]
    got = at_once([lambda b=b: predictor_of(forms, b, 1).predict(given) for b in backends])
    alone = {backend: predictor_of(forms, backend, 1).predict(given) for backend in BACKENDS}
    for backend, result in zip(backends, got, strict=True):
        require_same(result, alone[backend])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_thread_pool_endpoint_answers_each_caller(backend, forms):
    fastapi = pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from fastapi.testclient import TestClient

    app = fastapi.FastAPI()
    predictor = predictor_of(forms, backend, 1, plain=False)
    given = images(8)

    @app.get("/{number}")
    def inspect(number: int) -> float:  # not async: FastAPI calls it in a pool of threads
        return predictor.predict(given[number]).score

    expected = [predictor.predict(image).score for image in given]
    numbers = [*range(len(given))] * 4
    with TestClient(app) as client:
        got = at_once([lambda n=n: client.get(f"/{n}").json() for n in numbers])
    assert got == [expected[number] for number in numbers]


# A program of its own: a fork of this one would take the threads of all other tests along.
FORKED = """
import os, signal, sys, threading, time, warnings
import numpy as np
from destseg.inference.backends import Runtime, open_backend
from destseg.inference.bundle import load_bundle

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of forks beside threads
backend = open_backend(load_bundle(sys.argv[1]), Runtime(sys.argv[2], "cpu", 2))
images = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
expected = backend(images)
busy = threading.Thread(target=lambda: [backend(images) for _ in range(10**6)], daemon=True)
busy.start()
for wait in (0.0, 0.03, 0.1):
    time.sleep(wait)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        threads = [threading.Thread(target=backend, args=(images,)) for _ in range(3)]
        for each in threads:
            each.start()
        difference = abs(backend(images) - expected).max()
        for each in threads:
            each.join()
        os._exit(0 if difference <= 1e-5 else 7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pickled_predictor_is_opened_anew_and_says_the_same(
    backend, forms, tmp_path, monkeypatch
):
    shutil.copytree(forms.folder, tmp_path / "model")
    bundle = load_bundle(tmp_path / "model")
    if backend.endswith("-int8"):
        form = load_export(bundle, backend)
        fitted = replace(bundle.calibration, weights_sha256=form.sha256)
        save_export_calibration(form, fitted)
    monkeypatch.chdir(tmp_path)
    with load("model", backend=backend, device="cpu", threads=1, batch_size=3) as predictor:
        expected = predictor.predict(images(5))
        pickled = pickle.dumps(predictor)
        name = predictor.weights_sha256
    monkeypatch.chdir("/")
    again = pickle.loads(pickled)
    assert again.predict(images(5)) == expected
    assert (again.backend_name, again.batch_size, again.weights_sha256) == (backend, 3, name)
    assert (name == bundle.weights_sha256) == (not backend.endswith("-int8"))
    if backend.endswith("-int8"):
        files = {each: (form.folder / each).read_bytes() for each in form.files}
        other = save_export(bundle, backend, {**files, "more": b"another"}, {})
        save_export_calibration(other, replace(fitted, weights_sha256=other.sha256))
        with pytest.raises(BundleError, match=r"expected the .* model that was pickled"):
            pickle.loads(pickled)
    else:
        shutil.rmtree(tmp_path / "model")
        with pytest.raises(BundleError):
            pickle.loads(pickled)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forked_process_goes_on_with_the_model(backend, forms):
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(forms.folder), backend],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == ["0", "0", "0"], done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_refuses_another_model_than_was_opened(
    quantisable_bundle, tmp_path, monkeypatch
):
    shutil.copytree(quantisable_bundle.folder, tmp_path / "model")
    bundle = load_bundle(tmp_path / "model")
    backend = open_backend(bundle, Runtime("onnx", "cpu", 1))
    export = load_export(bundle, "onnx")
    files = {name: (export.folder / name).read_bytes() for name in export.files}
    save_export(bundle, "onnx", {**files, "more": b"another"}, {})
    given = np.zeros((1, 64, 64, 3), np.uint8)
    backend(given)
    process = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: process + 1)
    with pytest.raises(BundleError, match="Load the bundle anew"):
        backend(given)


def test_pytorch_has_the_threads_asked_for_during_a_call_and_its_own_after(quantisable_bundle):
    import torch

    from destseg.inference.backends.torch_ import TorchBackend, load_model

    seen = {}
    before = torch.get_num_threads()
    for wanted in (1, 3):
        model = load_model(quantisable_bundle)
        model.register_forward_pre_hook(
            lambda *_, wanted=wanted: seen.update({wanted: torch.get_num_threads()})
        )
        backend = TorchBackend(model, "cpu", threads=wanted)
        assert torch.get_num_threads() == before
        backend(np.zeros((1, 64, 64, 3), np.uint8))
        assert torch.get_num_threads() == before
    assert seen == {1: 1, 3: 3}


def test_the_region_that_all_share_cannot_be_written_to(forms):
    inspected = predictor_of(forms, "onnx", 1, plain=False).inspected((64, 64))
    with pytest.raises(ValueError, match="read-only"):
        inspected[:] = True


# What a runtime has locked while it is forked stays locked in the other process.
WAITING = """
import os, threading, time, warnings
import numpy as np
from destseg.inference.backends.forked import OpenedHere

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of forks beside threads
lock = threading.Lock()

def runtime(images):
    with lock:
        time.sleep(0.01)
    return images

backend = OpenedHere(lambda: runtime)
image = np.zeros(1)
for _ in range(4):  # one of them always runs
    threading.Thread(target=lambda: [backend(image) for _ in range(10**6)], daemon=True).start()
free = []
for _ in range(20):
    child = os.fork()
    if child == 0:
        os._exit(0 if lock.acquire(timeout=0) else 7)
    free.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(*set(free), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_waits_until_the_calls_that_run_are_done():
    done = subprocess.run(
        [sys.executable, "-c", WAITING], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["0"], done.stderr
