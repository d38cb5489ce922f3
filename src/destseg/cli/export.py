"""``destseg export``: a trained model as ONNX or OpenVINO files."""

from __future__ import annotations

import sys

import destseg
from destseg.cli.flags import command_parser

DESCRIPTION = """Write a trained model as ONNX or OpenVINO into its bundle.

One file holds the whole arithmetic: uint8 RGB pixels in, anomaly map out; normalisation, networks,
sigmoid and up-sampling are inside; batch, height and width are free, in multiples of 32 pixels.
The maps are compared with PyTorch's before anything is written.  From then on every command uses
the exported model by itself, on machines without PyTorch too, and `destseg doctor` compares all
forms on your images.
"""

EPILOG = """examples:
  destseg export runs/bottle --to onnx
  destseg export runs/bottle --to openvino
"""


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    parser = command_parser("export", DESCRIPTION, EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of a trained model")
    parser.add_argument(
        "--to",
        required=True,
        choices=("onnx", "openvino"),
        help="what to write",
    )
    parsed = parser.parse_args(words)

    done = destseg.export(
        parsed.bundle, parsed.to, on_step=lambda step: print(step, file=sys.stderr)
    )
    size = sum((done.folder / name).stat().st_size for name in done.files)
    print(
        f"written: {done.model} ({size / 1e6:.1f} MB with its weights); largest difference from "
        f"PyTorch's maps {done.facts['largest_difference']:.1e}"
    )
    return 0
