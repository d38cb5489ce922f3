"""The backend that runs an exported model with OpenVINO."""

from __future__ import annotations

import functools
import threading
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from destseg.errors import BundleError, SettingsError
from destseg.inference.backends import imports
from destseg.inference.backends.runtime import Runtime
from destseg.inference.exports import Export

_ASKING = threading.Lock()


def core() -> Any:
    """Return the one ``openvino.Core`` of this process, which is never given up.

    Its CPU plugin gives the thread that loads it a stack for signals, and unmaps that when its last
    object goes.  Where that happens on another thread (garbage collection, a server that loads a
    new model) the next signal would end the process (OpenVINO 2026.4).
    """
    # ``functools.cache`` alone would let two threads make one each at the first call.
    with _ASKING:
        return _core()


@functools.cache
def _core() -> Any:
    return imports.openvino().Core()


def read_graph(export: Export) -> Any:
    """Return an exported form as OpenVINO's model, out of the bytes that were checked.

    Given a path OpenVINO maps the weights: a file that is written over in place would then change
    what a running model says, and one that is cut short would end its process.

    Raises:
        BundleError: if a file is not the one that was saved.
    """
    files = export.read()
    weights = files.get(export.model.with_suffix(".bin").name, b"")
    return core().read_model(files[export.model.name], weights)  # which copies them


class OpenvinoBackend:
    """OpenVINO on one device; see ``Backend``.

    A request holds one batch and its maps, so every call that runs has one to itself.  There are as
    many as calls have ever run at once; OpenVINO lets them wait where it computes fewer at a time.

    Args:
        export: its .xml file comes first; the .bin has the same name.
        runtime: its device is auto or cpu (both the CPU) or a name of OpenVINO's.

    Raises:
        BundleError: if a file was changed, or OpenVINO cannot read or compile it.
        SettingsError: if it has no such device here.
    """

    def __init__(self, export: Export, runtime: Runtime) -> None:
        device = "CPU" if runtime.device in ("auto", "cpu") else runtime.device.upper()
        here = core().available_devices
        if device.partition(".")[0] not in {name.partition(".")[0] for name in here}:
            raise SettingsError(
                f"--device: expected one of auto, {', '.join(map(str.lower, here))} for OpenVINO "
                f"on this machine, got {runtime.device!r}"
            )
        wanted: dict[str, Any] = {
            # It would take bf16 or fp16 by itself where the device has them, and other scores.
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if runtime.threads is not None and device == "CPU":
            wanted["INFERENCE_NUM_THREADS"] = runtime.threads
            # Each process would pin its threads to the first cores, several of them to the same.
            wanted["ENABLE_CPU_PINNING"] = False
        if runtime.cache is not None:
            wanted["CACHE_DIR"] = str(runtime.cache)
            wanted["ENABLE_MMAP"] = False  # of what is kept there; see read_graph
        try:
            self._model = core().compile_model(read_graph(export), device, wanted)
        except RuntimeError as error:
            raise BundleError(f"{export.model}: OpenVINO cannot run it: {error}") from error
        self._idle: deque[Any] = deque([self._model.create_infer_request()])

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return maps [n, h, w] in [0, 1] for RGB images [n, h, w, 3]."""
        try:
            request = self._idle.pop()  # a deque's ends are safe among threads
        except IndexError:
            request = self._model.create_infer_request()
        # Not by infer, which tells of no error where it has one thread: the last batch's maps would
        # be taken for those of this one (OpenVINO 2026.4).
        request.start_async([np.ascontiguousarray(images)], share_inputs=True)
        request.wait()
        # A copy: the next batch writes into the same memory.
        maps = np.array(request.get_output_tensor(0).data, dtype=np.float32)
        self._idle.append(request)  # not one that failed, whose state nobody knows
        return maps


def devices() -> list[str]:
    """Return the devices that OpenVINO sees here, with their names."""
    return [
        f"{name} {core().get_property(name, 'FULL_DEVICE_NAME')}"
        for name in core().available_devices
    ]
