"""Installs the wheel without extras and with each one alone, and does what the extra is for.

    python tests/smoke.py dist/destseg-0.1.0-py3-none-any.whl [EXTRA ...] [--folder FOLDER]

Each extra (``none`` is the base install) gets a fresh virtual environment, which is removed
afterwards.  Where the thing needs a second package, the line that the error prints is run as it is
printed, and the thing must work then.  ``export`` comes first: the others run the model it leaves.

It needs pip and its index, and some GB for PyTorch, so that ``make smoke`` is no part of the tests.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

DRAW = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
random = np.random.default_rng(0)
for number in range(14):
    place = "train/good" if number < 10 else "test/good" if number < 12 else "test/hole"
    part = random.normal(128, 5, (64, 64, 3)).clip(0, 255).astype(np.uint8)
    if "hole" in place:
        part[20:30, 20:30] = 0
    path = Path(sys.argv[1], place, f"{number}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(part).save(path)
"""
# All that is public is there, and every command tells its help.
LOOK = """
import destseg
from destseg.cli.main import COMMANDS, main
for name in destseg.__all__:
    getattr(destseg, name)
for command in COMMANDS:
    assert main([command, "--help"]) == 0
"""
TINY = "--image-size 64 --batch-size 2 --denoise-steps 2 --segment-steps 2 --calibration-minimum 2"


class Environment:
    """A virtual environment with the wheel and one extra, and the things that they work on."""

    def __init__(self, folder: Path, wheel: Path, extra: str, work: Path) -> None:
        self.bin = folder / "bin"
        self.work = work
        self.parts = work / "parts"
        self.model = work / "model"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        self.pip("install", "--quiet", f"{wheel}[{extra}]" if extra != "none" else str(wheel))

    def pip(self, *words: str) -> None:
        subprocess.run([self.bin / "pip", *words], check=True)

    def python(self, code: str, *words: object) -> str:
        return self._run([self.bin / "python", "-c", code, *words])

    def destseg(self, *words: object) -> str:
        """Run a command that must work, and return what it printed."""
        return self._run([self.bin / "destseg", *words])

    def missing(self, *words: object) -> str:
        """Run a command that must ask for an extra; install it as told, and return the line."""
        done = subprocess.run(
            [self.bin / "destseg", *map(str, words)], cwd=self.work, capture_output=True, text=True
        )
        assert done.returncode == 1, done
        assert "Traceback" not in done.stderr, done.stderr
        (line,) = re.findall(r"with: (pip install .*)", done.stderr)
        return line

    def install(self, line: str) -> None:
        pip, *words = shlex.split(line)
        assert pip == "pip"
        self.pip(*words, "--quiet")

    def _run(self, words: list[object]) -> str:
        done = subprocess.run([*map(str, words)], cwd=self.work, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{shlex.join(map(str, words))}: {done.returncode}\n{done.stderr}")
        return done.stdout


def none(env: Environment) -> None:
    env.python(DRAW, env.parts)
    assert "'torch>=" in env.missing("train", env.parts, "--output", env.work / "none")
    assert "onnx: pip install 'onnxruntime>=" in env.destseg("doctor")


def train(env: Environment) -> None:
    env.python(DRAW, env.parts)
    words = ["train", env.parts, "--output", env.work / "trained", *TINY.split()]
    env.destseg(*words)
    predict(env, env.work / "trained")
    # The other extra that only training uses.
    again = [*words, "--overwrite", "--tensorboard"]
    env.install(env.missing(*again))
    env.destseg(*again)
    assert [*(env.work / "trained").rglob("events.out.*")]


def tensorboard(env: Environment) -> None:
    env.python("from tensorboard.summary.writer.event_file_writer import EventFileWriter")


def export(env: Environment) -> None:
    env.python(DRAW, env.parts)
    env.destseg("train", env.parts, "--output", env.model, *TINY.split())
    for runtime in ("onnx", "openvino"):
        env.destseg("export", env.model, "--to", runtime)
    # Two steps teach nothing that INT8 could keep.
    env.destseg("quantize", env.model, env.parts, "--to", "onnx", "--max-drop", "1")
    said = env.destseg("doctor", env.model)
    assert len(re.findall(r" same *$", said, re.M)) == 2, said


def predict(env: Environment, model: Path | None = None, *words: str) -> None:
    lines = env.destseg("predict", model or env.model, env.parts / "test", *words).splitlines()
    assert len(lines) == 4
    assert all(0 <= json.loads(line)["score"] <= 1 for line in lines)


def onnx(env: Environment) -> None:
    predict(env)
    predict(env, None, "--backend", "onnx-int8")


def openvino(env: Environment) -> None:
    predict(env)


def parquet(env: Environment) -> None:
    words = ["evaluate", env.model, env.parts, "--by-image", env.work / "rows.parquet"]
    env.install(env.missing(*words))
    env.destseg(*words)
    assert env.python("import pyarrow.parquet as p; print(p.read_table('rows.parquet').num_rows)")


def serve(env: Environment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve", env.model, "--port", port]
    env.install(env.missing(*words))
    server = subprocess.Popen([env.bin / "destseg", *map(str, words)], cwd=env.work)
    try:
        image = next((env.parts / "test/hole").iterdir()).read_bytes()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/inspect", image, {"Content-Type": "image/png"}
        )
        for _ in range(240):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    assert 0 <= json.load(answer)["score"] <= 1
                break
            except (ConnectionError, urllib.error.URLError):
                assert server.poll() is None
                time.sleep(0.5)
        else:
            raise SystemExit("destseg serve: no answer")
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    assert code in (0, 128 + signal.SIGTERM), code


def ray(env: Environment) -> None:
    words = ["batch", env.model, env.parts / "test", "--output", env.work / "rows"]
    env.install(env.missing(*words))
    env.destseg(*words)
    count = "import pyarrow.parquet as p; print(p.read_table('rows').num_rows)"
    assert env.python(count).strip() == "4"


DO: dict[str, Callable[[Environment], None]] = {
    each.__name__: each
    for each in (export, none, train, tensorboard, onnx, openvino, parquet, serve, ray)
}


def main() -> None:
    """Go through the extras that were asked for, or all."""
    parser = argparse.ArgumentParser(description="Try the wheel in fresh virtual environments.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("extras", nargs="*", help=f"of {', '.join(DO)} (default: all)")
    parser.add_argument("--folder", type=Path, default=Path("build/smoke"))
    parsed = parser.parse_args()
    folder = parsed.folder.resolve()
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    for extra in parsed.extras or DO:
        began = time.monotonic()
        place = folder / extra
        shutil.rmtree(place, ignore_errors=True)
        env = Environment(place, parsed.wheel.resolve(), extra, work)
        env.pip("check")
        assert "usage: destseg" in env.destseg("--help")
        env.python(LOOK)
        DO[extra](env)
        shutil.rmtree(place)
        print(f"{extra}: works ({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
