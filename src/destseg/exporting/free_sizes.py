"""A graph that was traced at one size, made to take any batch, height and width.

PyTorch can trace with free sizes itself, but reasons about each operation's then: three quarters of
the processor time of an export (benchmarks/NOTES.md).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from destseg.errors import BundleError
from destseg.fields import STRIDE

PRIMES = (1009, 1013, 1019)
TRACED = (PRIMES[0], STRIDE * PRIMES[1], STRIDE * PRIMES[2])
"""The batch, height and width to trace with: no channels or kernels are multiples of the primes."""

WRONG_SIZE = f"height_and_width_must_be_multiples_of_{STRIDE}"
"""The node that fails on other sizes: runtimes tell nothing of a graph but a node's name."""


def free_sizes(graph: onnx.GraphProto) -> None:
    """Work out each number that comes from the traced size from the input's shape instead.

    Such a number is a multiple of ``PRIMES``: a height of h / 8 was traced as 4 * 1013.  Sides
    that are no multiples of 32 end at the node ``WRONG_SIZE``: one pixel more would else give a map
    that is one pixel too small.

    Args:
        graph: of one input [batch, height, width, channels], traced with ``TRACED``; is changed.

    Raises:
        BundleError: if a size is where ONNX has only room for a constant.
    """
    for constant in graph.initializer:
        _refuse(constant.dims, f"a table of {[*constant.dims]}")
    for node in graph.node:
        for attribute in node.attribute:
            _refuse((attribute.i, *attribute.ints), f"{attribute.name} of a node {node.op_type}")
    nodes, constants = _looked_at(graph.input[0])
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == graph.input[0].name:
                node.input[place] = "images_checked"
    for constant in graph.initializer:
        numbers = numpy_helper.to_array(constant)
        if numbers.dtype == np.int64 and any(_is_size(each) for each in numbers.flat):
            _work_out(constant.name, numbers, constants, nodes)
        else:
            constants.append(constant)
    nodes.extend(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(constants)
    graph.node.extend(nodes)


def _looked_at(images: onnx.ValueInfoProto) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return what makes ``image_sizes`` and ``images_checked`` of images, and its constants."""
    channels = images.type.tensor_type.shape.dim[3].dim_value
    units = np.array([1, STRIDE, STRIDE, channels])
    nodes = [
        helper.make_node("Shape", [images.name], ["image_shape"]),
        # batch, height / 32, width / 32, 1
        helper.make_node("Div", ["image_shape", "image_units"], ["image_sizes"]),
        # Without what the division left over: it is then no shape for as many pixels.
        helper.make_node("Mul", ["image_sizes", "image_units"], ["image_whole"]),
        helper.make_node(
            "Reshape", [images.name, "image_whole"], ["images_checked"], WRONG_SIZE, allowzero=1
        ),
    ]
    return nodes, [numpy_helper.from_array(units, "image_units")]


def _is_size(number: int | np.int64) -> bool:
    return bool(number != 0) and any(number % prime == 0 for prime in PRIMES)


def _refuse(numbers: Iterable[int], what: str) -> None:
    if any(_is_size(each) for each in numbers):
        raise BundleError(
            "this network cannot be exported to ONNX for images of any size: it has "
            f"{what}, which depends on the size"
        )


def _work_out(
    name: str,
    numbers: NDArray[np.int64],
    constants: list[onnx.TensorProto],
    nodes: list[onnx.NodeProto],
) -> None:
    """Add what makes numbers, under their name, out of the four ``image_sizes``."""
    rest = numbers
    factors: list[NDArray[np.int64]] = []  # one place in image_sizes a number; the last is 1
    while any(_is_size(each) for each in rest.flat):
        places = np.full(rest.shape, len(PRIMES))
        for axis, prime in enumerate(PRIMES):
            places[(rest != 0) & (rest % prime == 0)] = axis
        rest = rest // np.array([*PRIMES, 1])[places]
        factors.append(places)
    made = f"{name}_rest"
    constants.append(numpy_helper.from_array(rest, made))
    for number, places in enumerate(factors, start=1):
        constants.append(numpy_helper.from_array(places, f"{name}_places_{number}"))
        factor, so_far = f"{name}_factor_{number}", f"{name}_times_{number}"
        nodes.append(helper.make_node("Gather", ["image_sizes", constants[-1].name], [factor]))
        nodes.append(helper.make_node("Mul", [made, factor], [so_far]))
        made = so_far
    nodes[-1].output[0] = name
