"""A caller's program: what it set for its process, and whether our functions leave it so.

``python process_state.py SETTINGS PARTS FOLDER`` prints a JSON object: for each of our functions,
in the order of their calls, what was different behind it.
"""

import contextlib
import json
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
import rich.style  # noqa: F401 - takes a random number when it is imported
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGCHLD]
LIBRARIES = ("", "torch.onnx", "onnxscript", "onnx_ir", "timm.models._builder", "ray.data", "ray")


def hashed(values):
    return hash(np.asarray(values).tobytes())


def state():
    loggers = {name: logging.getLogger(name) for name in LIBRARIES}
    return {
        **{f"environment {name}": value for name, value in os.environ.items()},
        **{f"signal {number}": str(signal.getsignal(number)) for number in SIGNALS},
        **{f"level of {name}": logger.level for name, logger in loggers.items()},
        **{f"handlers of {name}": str(logger.handlers) for name, logger in loggers.items()},
        **{f"filters of {name}": str(logger.filters) for name, logger in loggers.items()},
        "folder": str(Path.cwd()),
        "standard output": (id(sys.stdout), id(sys.stderr), sys.stdout.write is WRITE),
        "standard files": [os.fstat(number).st_ino for number in (0, 1, 2)],
        "hooks": (id(sys.excepthook), id(sys.displayhook), id(threading.excepthook)),
        "logging is disabled": logging.root.manager.disable,
        "class of loggers": str(logging.getLoggerClass()),
        # A package's filter of a warning of its own is nobody else's.
        "warnings": [
            str(each) for each in warnings.filters if each[2].__module__ != "pkg_resources"
        ],
        "showwarning": id(warnings.showwarning),
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "threads of cv2": cv2.getNumThreads(),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
        ),
        "precision": (torch.get_float32_matmul_precision(), str(torch.get_default_dtype())),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "random of torch": hashed(torch.get_rng_state()),
        "random of numpy": hashed(np.random.get_state()[1]),
        "random of python": hash(random.getstate()),
        "process group": dist.is_initialized() and (dist.get_backend(), id(dist.group.WORLD)),
        "accelerate": [str(each._shared_state) for each in (PartialState, AcceleratorState)],
        "gradients of accelerate": str(GradientState._shared_state),
        "umask": (os.umask(0o22), os.umask(0o22))[0],
    }


def learn(accelerator):
    """Take a step as the caller would; return the weight."""
    layer = torch.nn.Linear(3, 1)
    torch.nn.init.constant_(layer.weight, 0.5)
    torch.nn.init.zeros_(layer.bias)
    layer, optimizer = accelerator.prepare(layer, torch.optim.SGD(layer.parameters(), lr=0.1))
    loss = layer(torch.ones(2, 3)).square().mean()
    accelerator.backward(loss)
    optimizer.step()
    assert accelerator.gather(loss.detach()[None]).shape == (1,)
    total = torch.ones(1)
    dist.all_reduce(total)
    assert total.item() == 1
    assert accelerator.mixed_precision == "bf16"
    return float(layer.weight.detach().sum())


def calls(settings, parts, folder):
    """Yield what is called, by its name."""
    import destseg
    from destseg.config import Settings

    model = folder / "model"
    chosen = Settings.from_yaml(Path(settings))

    def train(precision="fp32", **options):
        changed = chosen.replace(precision=precision)
        destseg.train(parts, output=model, settings=changed, quiet=True, **options)

    def export(to):
        from destseg.exporting.export import export
        from destseg.inference.bundle import load_bundle

        export(load_bundle(model), to)

    def quantize(to):
        from destseg.exporting.quantize import quantize
        from destseg.inference.bundle import load_bundle

        quantize(load_bundle(model), parts, to, count=4, max_drop=2)

    def predict(backend):
        destseg.load(model, backend=backend).predict(sorted(Path(parts).iterdir()))

    def untrained():
        from destseg.inference.backends.torch_ import untrained_head
        from destseg.inference.bundle import load_bundle

        untrained_head(load_bundle(model))

    def serve():
        from destseg.serving.app import create_app

        app = create_app({"part": lambda: destseg.load(model, backend="torch")}, token="secret")
        app.state.service.models.close()

    def interrupted():
        from destseg.errors import TrainingInterrupted

        log = folder / "stopped" / "log.jsonl"

        def stop():
            while not log.is_file() or '"step"' not in log.read_text(encoding="utf-8"):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

        stopper = threading.Thread(target=stop)
        stopper.start()
        with contextlib.suppress(TrainingInterrupted):
            longer = chosen.replace(denoise_steps=10_000)
            destseg.train(parts, output=log.parent, settings=longer, quiet=True)
            raise AssertionError("not interrupted")
        stopper.join()

    def failed():
        from destseg.errors import DestsegError

        with contextlib.suppress(DestsegError):
            destseg.train(folder / "nothing", output=folder / "failed", settings=chosen)
            raise AssertionError("did not fail")

    yield "train", train
    yield "train in bf16", lambda: train("bf16", overwrite=True)
    yield "interrupted training", interrupted
    yield "failed training", failed
    yield "predict with torch", lambda: predict("torch")
    yield "head before training", untrained
    for to in ("onnx", "openvino"):
        yield f"export to {to}", lambda to=to: export(to)
        yield f"predict with {to}", lambda to=to: predict(to)
        yield f"quantize for {to}", lambda to=to: quantize(to)
    yield "create_app", serve


def main(settings, parts, folder):
    folder = Path(folder)
    signal.signal(signal.SIGTERM, handler)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    torch.set_num_threads(2)
    torch.manual_seed(11)
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    expected = learn(accelerator)
    found = {}
    for name, call in calls(settings, parts, folder):
        before = state()
        call()
        after = state()
        found[name] = {
            key: (before.get(key), after.get(key))
            for key in before.keys() | after.keys()
            if before.get(key) != after.get(key)
        }
    print(json.dumps(found, default=str), flush=True)
    assert learn(accelerator) == expected


def handler(number, frame):
    raise AssertionError(f"the caller's handler was asked: {number}")


WRITE = sys.stdout.write

if __name__ == "__main__":
    WRITE = sys.stdout.write
    main(*sys.argv[1:])
