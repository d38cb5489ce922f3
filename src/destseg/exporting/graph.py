"""The whole arithmetic of a model as one ONNX graph: pixels in, anomaly maps out."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping

import onnx
import torch
from torch import Tensor, nn

from destseg.as_found import without_new, without_remarks
from destseg.errors import BundleError
from destseg.exporting.free_sizes import TRACED, WRONG_SIZE, free_sizes
from destseg.model.destseg import DeSTSeg
from destseg.model.folding import folded

OPSET = 20
INPUT, OUTPUT = "images", "anomaly_map"
AXES = ("batch", "height", "width")
ACTIVATIONS = ("Clip", "Relu", "Add")


class Graph(nn.Module):
    """A model with the backends' layout: [n, h, w, 3] uint8 RGB to [n, h, w] float32 in [0, 1]."""

    def __init__(self, model: DeSTSeg) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the maps of images; heights and widths are multiples of 32."""
        maps: Tensor = self.model(images.permute(0, 3, 1, 2))
        return maps[:, 0]


def to_onnx(model: DeSTSeg, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Return a model as ONNX: batch norms folded, batch, height and width free.

    Meanwhile no thread of the process is warned of anything: Python's filters are everybody's.

    Args:
        model: on the CPU.
        metadata: what is written into the file beside the graph.

    Raises:
        BundleError: if the network cannot be exported, or the result is not valid ONNX.
    """
    generator = torch.Generator().manual_seed(0)
    example = torch.randint(0, 256, (2, 128, 128, 3), dtype=torch.uint8, generator=generator)
    # The exporter leaves norms whose convolution also gives a size to someone.
    network = folded(Graph(model), example)
    # Nothing is computed with it: one pixel that is said to be everywhere.
    traced = example[:1, :1, :1].expand(*TRACED, 3)
    try:
        with (
            without_remarks("torch.onnx", "onnxscript", "onnx_ir"),
            without_new("TORCHINDUCTOR_CACHE_DIR"),  # of a compiler that PyTorch 2.7 looks up
            warnings.catch_warnings(action="ignore"),
        ):
            program = torch.onnx.export(
                network,
                (traced,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise BundleError(f"this network cannot be exported to ONNX: {error}") from error
    if program is None:
        raise BundleError("this network cannot be exported to ONNX: nothing came out")
    proto: onnx.ModelProto = program.model_proto
    free_sizes(proto.graph)
    _name_axes(proto)
    _name_nodes(proto)
    proto.producer_name = "destseg"
    for name, value in metadata.items():
        proto.metadata_props.add(key=f"destseg.{name}", value=value)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BundleError(f"the exported graph is not valid ONNX: {error}") from error
    return proto


def _name_axes(proto: onnx.ModelProto) -> None:
    """Free the axes under their names."""
    for value in (proto.graph.input[0], proto.graph.output[0]):
        for axis, name in zip(value.type.tensor_type.shape.dim, AXES, strict=False):
            axis.dim_param = name
    del proto.graph.value_info[:]  # it speaks of the traced sizes; any runtime infers it again


def _name_nodes(proto: onnx.ModelProto) -> None:
    """Name each node for the module that it comes from, so that a quantiser can choose by name.

    What the exporter notes beside them, the source files of the machine among it, goes away.
    """
    weights = {weight.name for weight in proto.graph.initializer}
    made_by: dict[str, str] = {}
    for number, node in enumerate(proto.graph.node):
        notes = {note.key: note.value for note in node.metadata_props}
        scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))
        # The weights' names are surest; timm's networks lose the modules of what has none.
        own = [name.rpartition(".")[0] for name in node.input[1:] if name in weights]
        named = [name for name in (*own, *reversed(scopes)) if name.startswith("model.")]
        earlier = [made_by[name] for name in node.input[:1] if name in made_by]
        # A norm or a sum of both networks' features belongs to neither.
        if node.op_type not in ACTIVATIONS:
            earlier = []
        module = next(iter([*named, *earlier]), "model")
        made_by |= dict.fromkeys(node.output, module)
        if node.name != WRONG_SIZE:
            node.name = f"{module}/{node.op_type}_{number}"
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.graph.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
