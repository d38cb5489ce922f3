"""Operations and bytes of an exported model by part, against what this machine can do.

    python benchmarks/roofline.py BUNDLE [--rounds N] [--results FILE]

The machine's peaks are measured: the best that ONNX Runtime reaches on one thread, like the model,
with a matrix product or a large convolution in fp32, and with a matrix product in uint8 x int8; and
a copy of memory that fits the second-level cache and one that fits none.  Operations (a
multiplication and an addition are two) and bytes (what a node reads and writes, its weights too)
come from the graph at the model's size; times from ONNX Runtime's profile of the same graph.
``bound_ms`` is the roofline: the larger of operations over peak and bytes over the cache's rate,
summed over nodes.  Nodes that the runtime makes itself (changes of layout) are the part
``runtime``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

from destseg.inference.bundle import load_bundle
from destseg.inference.exports import load_export
from provenance import commit, environment

RESULTS = Path(__file__).parent / "results" / "roofline-cpu.json"
PARTS = ("teacher", "student", "head")
SIDE = 1024  # of the matrices
CHANNELS = 256  # of the convolution
CACHED, UNCACHED = 2**18, 2**28  # bytes
DOUBLED = 2  # operations of a multiplication with its addition


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("bundle")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--results", default=str(RESULTS))
    parser.add_argument("--device-name", default="", help="what the machine is, in words")
    parsed = parser.parse_args()
    bundle = load_bundle(parsed.bundle)
    graph = sized(onnx.load(load_export(bundle, "onnx").model), bundle.settings.data.size)
    peaks = measured_peaks(parsed.rounds)
    rows = by_part(costs(graph), profile(graph, parsed.rounds), peaks)
    print({name: round(value, 1) for name, value in peaks.items()})
    for each in rows:
        print(each)
    result = {
        "device": parsed.device_name,
        "commit": commit(),
        **environment("onnxruntime", "onnx", "numpy"),
        "threads": 1,
        "rounds": parsed.rounds,
        "peaks": {name: round(value, 1) for name, value in peaks.items()},
        "rows": rows,
    }
    Path(parsed.results).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {parsed.results}")
    return 0


def sized(graph: onnx.ModelProto, size: tuple[int, int]) -> onnx.ModelProto:
    """Return a graph for one image of a (height, width), with the shape of every value."""
    for name, length in (("batch", 1), ("height", size[0]), ("width", size[1])):
        make_dim_param_fixed(graph.graph, name, length)
    # Sizes that the graph computes from its input are numbers now; the runtime works them out.
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder, "sized.onnx"))
        onnxruntime.InferenceSession(graph.SerializeToString(), options)
        known = onnx.load(options.optimized_model_filepath)
    return onnx.shape_inference.infer_shapes(known, data_prop=True)


def costs(graph: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """Return the operations and bytes of each node by its name."""
    sizes: dict[str, tuple[list[int], int]] = {}
    for weight in graph.graph.initializer:
        sizes[weight.name] = list(weight.dims), itemsize(weight.data_type)
    for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output):
        kind = value.type.tensor_type
        dims = [dim.dim_value for dim in kind.shape.dim]
        sizes[value.name] = dims, itemsize(kind.elem_type)

    def count(name: str) -> int:
        return int(np.prod(sizes[name][0], dtype=np.int64)) if name in sizes else 0

    found = {}
    for node in graph.graph.node:
        values = [name for name in (*node.input, *node.output) if name in sizes]
        moved = sum(count(name) * sizes[name][1] for name in values)
        operations = count(node.output[0])
        if node.op_type == "Conv":
            operations *= DOUBLED * int(np.prod(sizes[node.input[1]][0][1:]))
        found[node.name] = float(operations), float(moved)
    return found


def itemsize(kind: int) -> int:
    return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)


def profile(graph: onnx.ModelProto, rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each node that the runtime ran, by its name."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "profile"))
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
        shape = [dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim]
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        for _ in range(rounds + 3):
            session.run(None, {session.get_inputs()[0].name: image})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    # In the blocked layout of convolutions a node is named for its last output.
    makers = {f"{output}_nchwc": node.name for node in graph.graph.node for output in node.output}
    taken = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            taken[makers.get(name, name)].append(event["dur"] / 1e3)
    return {name: float(np.median(times[3:])) for name, times in taken.items()}


def measured_peaks(rounds: int) -> dict[str, float]:
    """Return GFLOP/s of fp32, Gop/s of int8 and GB/s within the cache and beyond, one thread."""
    random = np.random.default_rng(0)
    square = random.standard_normal((SIDE, SIDE)).astype(np.float32)
    quantised = random.integers(0, 127, (SIDE, SIDE), dtype=np.uint8)
    maps = random.standard_normal((1, CHANNELS, 32, 32)).astype(np.float32)
    kernels = random.standard_normal((CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    product, convolution = DOUBLED * SIDE**3, DOUBLED * kernels.size * 30 * 30
    return {
        "fp32_gflop_s": max(
            product / best(operation("MatMul", square, square), rounds),
            convolution / best(operation("Conv", maps, kernels), rounds),
        )
        / 1e9,
        "int8_gop_s": product
        / best(operation("MatMulInteger", quantised, quantised.view(np.int8)), rounds)
        / 1e9,
        "cache_gb_s": best_copy(CACHED, rounds * 100),
        "memory_gb_s": best_copy(UNCACHED, max(3, rounds // 5)),
    }


def operation(kind: str, given: NDArray[Any], weights: NDArray[Any]) -> Callable[[], object]:
    """Return what runs one node with constant weights."""
    helper, to_proto = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype
    out = onnx.TensorProto.INT32 if kind == "MatMulInteger" else onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(kind, ["given", "weights"], ["out"])],
        kind,
        [helper.make_tensor_value_info("given", to_proto(given.dtype), given.shape)],
        [helper.make_tensor_value_info("out", out, [None] * given.ndim)],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return lambda: session.run(None, {"given": given})


def best_copy(size: int, rounds: int) -> float:
    source, target = np.ones(size // 8), np.empty(size // 8)
    return 2 * size / 1e9 / best(lambda: np.copyto(target, source), rounds)


def best(work: Callable[[], object], rounds: int) -> float:
    """Return the shortest of some times: a peak is what the machine can do at all."""
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def by_part(
    costs: dict[str, tuple[float, float]],
    times: dict[str, float],
    peaks: dict[str, float],
) -> list[dict[str, Any]]:
    """Return a row for each part of the network, the rest, the runtime's own, and all."""
    peak = peaks["fp32_gflop_s"] * 1e9
    rate = peaks["cache_gb_s"] * 1e9
    sums: dict[str, Any] = {
        name: np.zeros(4) for name in (*PARTS, "comparison, input, output", "runtime")
    }
    for name, (operations, moved) in costs.items():
        bound = max(operations / peak, moved / rate) * 1e3
        sums[part(name)] += operations / 1e9, moved / 1e6, bound, 0
    for name, taken in times.items():
        sums[part(name) if name in costs else "runtime"] += 0, 0, 0, taken
    sums["all"] = sum(sums.values())
    return [
        {
            "part": name,
            "gop": round(operations, 3),
            "mbytes": round(moved, 1),
            "bound_ms": round(bound, 2),
            "measured_ms": round(taken, 2),
            "gop_s": round(operations / taken * 1e3, 1),
            "share_of_peak": round(operations / taken * 1e12 / peak, 3),
        }
        for name, (operations, moved, bound, taken) in ((n, map(float, v)) for n, v in sums.items())
        if taken
    ]


def part(name: str) -> str:
    return next((p for p in PARTS if f"model.{p}." in name), "comparison, input, output")


if __name__ == "__main__":
    sys.exit(main())
