"""Every command with an empty home folder on a machine without a network: it stays empty."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import destseg
from conftest import write_category, write_images
from destseg.cli.main import COMMANDS

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def place(tiny_settings, tiny_teacher_weights, tmp_path_factory) -> Path:
    """A folder with a category, settings and an empty home."""
    folder = tmp_path_factory.mktemp("place")
    write_category(folder / "categories/disc", seed=1)
    write_images(folder / "new", 12, seed=99)
    (folder / "home").mkdir()
    settings = tiny_settings.replace(teacher_weights=str(tiny_teacher_weights))
    (folder / "tiny.yaml").write_text(settings.to_yaml(), encoding="utf-8")
    return folder


def environment(place):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    # Elsewhere than in a home these would be used, and none of them is set by a user.
    for name in ("HF_HOME", "TORCH_HOME", "MPLCONFIGDIR", "CI", "ORT_DISABLE_TELEMETRY"):
        kept.pop(name, None)
    paths = [str(Path(destseg.__file__).parents[1]), str(HERE / "unplugged")]
    return kept | {
        "HOME": str(place / "home"),
        "PACKETS": str(place / "packets"),
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
    }


CATEGORY, GOOD = "categories/disc", "categories/disc/train/good"
WRITTEN = ["--output", "results.jsonl", "--overlays", "overlays"]
QUICK = ["--interval", "0.05", "--settle", "0.1", "--give-up", "0.4"]
CHAIN = [
    ["train", CATEGORY, "--output", "model", "--settings", "tiny.yaml"],
    ["preview", GOOD, "--settings", "tiny.yaml", "--count", "2"],
    ["predict", "model", GOOD, "--backend", "torch", *WRITTEN],
    ["export", "model", "--to", "onnx"],
    ["predict", "model", GOOD, "--backend", "onnx"],
    ["export", "model", "--to", "openvino"],
    ["predict", "model", GOOD, "--backend", "openvino"],
    ["quantize", "model", CATEGORY, "--to", "onnx", "--images", "4", "--max-drop", "0.99"],
    ["quantize", "model", CATEGORY, "--to", "openvino", "--images", "4", "--max-drop", "0.99"],
    ["doctor", "model", "--data", GOOD],
    ["evaluate", "model", CATEGORY],
    ["report", "model", CATEGORY],
    ["calibrate", "model", "new"],
    [
        "qualify",
        "model",
        "new",
        *["--trials", "1", "--sizes", "8", "16", "--contrasts", "40", "--images", "2"],
    ],
    ["drift", "model", GOOD],
    ["watch", "model", GOOD, "--output", "watched.jsonl", "--once", *QUICK],
    ["batch", "model", GOOD, "--output", "rows", "--actors", "1"],
    ["train-many", "categories", "--output", "models", "--settings", "tiny.yaml"],
    ["serve", "model", "--port", "0"],
]
# Whether this is a machine of a cloud; Ray has no switch for it.
ASKED_BY_RAY = {"getaddrinfo 169.254.169.254", "getaddrinfo metadata.google.internal"}
# It is the path of train, predict and evaluate, and takes minutes.
LEFT_OUT = {"demo"}
# With PyTorch, as "train" is; that one imports it itself, the others are forks of one process.
FORKED = {"preview", "export", "quantize", "doctor"}


def run(place, words):
    """Return the exit code of a command in a process of its own, and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", "destseg", *words],
        cwd=place,
        env=environment(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if words[0] == "serve":
        assert process.stderr is not None
        assert any("serving at" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
    said = "\n".join(process.communicate(timeout=300))
    return process.returncode, said


@contextlib.contextmanager
def forks(place):
    """Give what ``run`` is, for commands that are forks of one process."""
    log = place / "said"
    with (
        log.open("w", encoding="utf-8") as said,
        subprocess.Popen(
            [sys.executable, str(HERE / "forking.py")],
            cwd=place,
            env=environment(place),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        ) as process,
    ):

        def fork(place, words):
            process.stdin.write(json.dumps(words) + "\n")
            process.stdin.flush()
            code = process.stdout.readline()
            said = log.read_text(encoding="utf-8")
            assert code, said
            return int(code), said

        yield fork


def require_nothing(place, words):
    """The home folder is empty, and nothing left the machine but what Ray asks."""
    written = [str(path) for path in (place / "home").rglob("*")]
    assert not written, (words, written)
    asked = set()
    if (place / "packets").exists():
        asked = set((place / "packets").read_text(encoding="utf-8").splitlines())
        (place / "packets").unlink()
    assert asked <= (ASKED_BY_RAY if words[0] in ("batch", "train-many") else set()), words


@pytest.mark.slow
@pytest.mark.ray
def test_every_command_leaves_the_home_folder_empty_and_sends_nothing(place):
    assert {words[0] for words in CHAIN} == set(COMMANDS) - LEFT_OUT
    with forks(place) as fork:
        for words in CHAIN:
            begin = fork if words[0] in FORKED or "torch" in words else run
            code, said = begin(place, words)
            assert code in (0, 3), (words, said)  # 3: an alarm of drift
            require_nothing(place, words)
    require_nothing(place, ["the process that was forked"])


def test_what_leaves_the_machine_would_be_seen(place, tmp_path):
    program = "import urllib.request; urllib.request.urlopen('http://192.0.2.1/')"
    env = environment(place) | {"PACKETS": str(tmp_path / "packets")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert (tmp_path / "packets").read_text(encoding="utf-8") == "getaddrinfo 192.0.2.1\n"
