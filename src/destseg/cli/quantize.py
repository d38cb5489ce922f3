"""``destseg quantize``: a trained model in INT8, measured before it is accepted."""

from __future__ import annotations

import sys
from typing import Any

import destseg
from destseg.cli.flags import command_parser

DESCRIPTION = """Write a trained model in static INT8 into its bundle, if it stays accurate enough.

DATA are good images, as for training: the ranges of activations are measured on them, and the
quantised model gets its own threshold from them.  It is compared with fp32 on good images with
and without synthetic anomalies, and on the labelled test images where DATA has them.  If more
than --max-drop of image AUROC or pixel AP is lost, less is quantised; if that does not help,
nothing is written.

There is no dynamic quantisation here: it acts on matrix products alone, and this network is made
of convolutions.
"""

EPILOG = """examples:
  destseg quantize runs/bottle data/bottle --to openvino
  destseg predict runs/bottle incoming --backend openvino-int8
"""


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    parser = command_parser("quantize", DESCRIPTION, EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of a trained model")
    parser.add_argument("data", metavar="DATA", help="good images, as for training")
    parser.add_argument(
        "--to", choices=("openvino", "onnx"), default="openvino", help="default: openvino"
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.01,
        metavar="X",
        help="largest loss of image AUROC and of pixel AP, as a fraction (default: 0.01)",
    )
    parser.add_argument(
        "--scope",
        choices=("auto", "all", "convolutions", "head"),
        default="auto",
        help="what is quantised: all but the first stage and the last convolution; "
        "convolutions: residual sums stay in fp32 too; head: decoder and head alone; auto: the "
        "first of them that is accurate enough (default: auto)",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=64,
        metavar="N",
        help="images that ranges are measured on (default: 64)",
    )
    parser.add_argument(
        "--vnni",
        action="store_true",
        help="use the weights' full range: closer to fp32, but it overflows on processors "
        "without VNNI",
    )
    parsed = parser.parse_args(words)
    done = destseg.quantize(
        parsed.bundle,
        parsed.data,
        parsed.to,
        max_drop=parsed.max_drop,
        scope=parsed.scope,
        images=parsed.images,
        vnni=parsed.vnni,
        on_step=lambda step: print(step, file=sys.stderr),
    )
    for line in told(done.facts):
        print(line)
    if done.calibration is not None:
        told_for = done.calibration.guaranteed_for
        print(
            f"threshold {done.calibration.threshold:.4f}, at most "
            f"{done.calibration.guaranteed_false_alarm_rate:.2%} false alarms"
            + (f" {told_for}" if told_for else "")
        )
    print(f"written: {done.model}; use it with --backend {done.name}")
    return 0


def told(facts: dict[str, Any] | Any) -> list[str]:
    """Return what was measured, in sentences."""
    from destseg.evaluation.outcomes import Coverage

    lines = [f"quantised: {facts['scope']}"]
    measured = [("good images and synthetic anomalies", facts["synthetic"])]
    if "labelled" in facts:
        measured.append(("labelled images", facts["labelled"]))
    for name, values in measured:
        image, pixel = values["image_auroc"], values["pixel_ap"]
        lines.append(
            f"{name}: image AUROC {image[0]:.4f} -> {image[1]:.4f}, "
            f"pixel AP {pixel[0]:.4f} -> {pixel[1]:.4f}"
        )
    if (coverage := facts.get("labelled", {}).get("coverage")) is not None:
        lines.append(f"  {Coverage(**coverage)}")
    synthetic = facts["synthetic"]
    lines.append(
        f"scores correlate to {synthetic['score_correlation']:.4f}, p-values differ by "
        f"{synthetic['p_value_difference']:.4f} in the mean, {synthetic['other_decisions']:.1%} of "
        "decisions differ"
    )
    before, after = facts["milliseconds"]
    lines.append(f"an image takes {after:.1f} ms instead of {before:.1f} ({before / after:.2f}x)")
    return lines
