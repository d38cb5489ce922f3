"""The whole state of a training run in one file, written atomically and read without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from destseg.data.files import write_atomically
from destseg.errors import TrainingError

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A run between two steps.

    Attributes:
        phase: name of the phase that it is in.
        step: steps of that phase done.
        settings: the run's settings as plain values.
        images: names of the training images, in order.
        teacher: where the teacher's weights came from.
        model: state dict of the whole model.
        optimizer: the phase's optimiser, tensors by ``parameter number/name``.
        scaler: state of the loss scaler, empty where none is used.
        seconds: training time so far.
        data_sha256: of the good images, as ``contents.fingerprint`` gives it.
        textures_sha256: the same of the textures; empty where there is no folder of them, and of a
            run of before it was noted.
    """

    phase: str
    step: int
    settings: Mapping[str, Any]
    images: list[str]
    teacher: str
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    scaler: Mapping[str, float]
    seconds: float
    data_sha256: str
    textures_sha256: str = ""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; an interruption leaves the earlier one."""
    tensors = {f"model/{key}": value for key, value in checkpoint.model.items()}
    tensors |= {f"optimizer/{key}": value for key, value in checkpoint.optimizer.items()}
    meta = {
        "format": FORMAT,
        "phase": checkpoint.phase,
        "step": checkpoint.step,
        "settings": checkpoint.settings,
        "images": checkpoint.images,
        "teacher": checkpoint.teacher,
        "scaler": checkpoint.scaler,
        "seconds": checkpoint.seconds,
        "data_sha256": checkpoint.data_sha256,
        "textures_sha256": checkpoint.textures_sha256,
    }
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_atomically(path, safetensors.torch.save(plain, {"destseg": json.dumps(meta)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        TrainingError: if there is none, or it is damaged or of another format.
    """
    if not path.is_file():
        raise TrainingError(
            f"nothing to resume: expected a saved state at {path}. Start without --resume."
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})["destseg"])
            if meta["format"] != FORMAT:
                raise TrainingError(
                    f"{path}: expected format {FORMAT}, got {meta['format']}. "
                    "Resume with the version of destseg that wrote it."
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return Checkpoint(
            phase=meta["phase"],
            step=meta["step"],
            settings=meta["settings"],
            images=meta["images"],
            teacher=meta["teacher"],
            model=_under(tensors, "model/"),
            optimizer=_under(tensors, "optimizer/"),
            scaler=meta["scaler"],
            seconds=meta["seconds"],
            data_sha256=meta["data_sha256"],
            textures_sha256=meta.get("textures_sha256", ""),
        )
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise TrainingError(
            f"{path}: expected a saved state of destseg, got a damaged file ({error}). "
            "Start anew with --overwrite."
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as tensors by ``parameter number/name``."""
    return {
        f"{number}/{name}": torch.as_tensor(value)
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser of the same parameters the state from ``optimizer_tensors``."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split("/")
        state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
