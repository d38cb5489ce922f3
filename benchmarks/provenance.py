"""Where a number came from: commit, device, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any


def commit() -> str:
    """Return the commit of this checkout, with ``-dirty`` where files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip()


def environment(*packages: str) -> dict[str, Any]:
    """Return cores, machine, Python and the versions of some packages."""
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("destseg", *packages)},
    }


def processor() -> dict[str, Any]:
    """Return the processor's name and which vector instructions it has; Linux alone tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    here = told.get("flags", told.get("Features", "")).split()
    wanted = ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimd")
    return {"name": told.get("model name", ""), "flags": [name for name in wanted if name in here]}
