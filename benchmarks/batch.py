"""Whether a batch survives crashes with every image once, and how fast actors are.

    python benchmarks/batch.py crash BUNDLE [--images N] [--results FILE]
    python benchmarks/batch.py speed BUNDLE [--rounds N] [--results FILE]
    python benchmarks/batch.py parts BUNDLE [--results FILE]

``crash``: generated images, 1 % of them damaged, on a local cluster of two nodes; a worker is
killed when a fifth is done, the driver at two fifths; the same command again, a node is taken away
at three fifths and a new one given, and the end must have every image once, with an error where
it is damaged.  ``speed``: one actor of one core against two, in turns of 64 images an actor:
images per second, and the processor time of each, which other programs change less.  ``parts``:
the processor time of each step, bytes, and the listing.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image

from provenance import commit, environment

RESULTS = Path(__file__).parent / "results" / "batch-cpu.json"
SOURCE = Path(__file__).resolve().parents[1] / "src"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("what", choices=["crash", "speed", "parts"])
    parser.add_argument("bundle", help="folder of a trained model")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=256, help="of the generated images")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parsed = parser.parse_args()
    os.environ["PYTHONPATH"] = str(SOURCE)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray lets its workers yield to all others (15); here that would measure the others.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - the name of a setting of Ray
    with tempfile.TemporaryDirectory(prefix="destseg-batch-") as folder:
        measured = {"crash": crash, "speed": speed, "parts": parts}[parsed.what](
            parsed, Path(folder)
        )
    measured |= {"commit": commit(), "load_average": os.getloadavg()[0]}
    measured |= environment("ray", "pyarrow", "openvino", "pillow")
    kept = json.loads(parsed.results.read_text()) if parsed.results.is_file() else {}
    kept[parsed.what] = measured
    parsed.results.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(measured, indent=1))
    return 0 if measured.get("every_image_once", True) else 1


def generate(folder: Path, count: int, side: int, damaged: int = 100) -> set[str]:
    """Write PNG images, one of each ``damaged`` damaged in turn; return the damaged ones."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] - side / 2
    disc = np.where((np.hypot(y, x) < side / 3)[..., None], (200, 190, 170), (60, 70, 80))
    contents = []
    for _ in range(20):
        noisy = disc + random.normal(0, 6, disc.shape)
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "PNG")
        contents.append(file.getvalue())
    bad = set()
    for number in range(count):
        path, content = folder / f"{number:06}.png", contents[number % len(contents)]
        if number % damaged == damaged // 2:
            bad.add(str(path))
            content = [b"", b"words", content[: len(content) // 2], content[:8] * 50][len(bad) % 4]
        path.write_bytes(content)
    return bad


# --- crashes


def crash(parsed: argparse.Namespace, folder: Path) -> dict[str, Any]:
    bad = generate(folder / "in", parsed.images, parsed.side)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    words = [parsed.bundle, folder / "in", "--output", folder / "out"]
    words += ["--address", cluster.address, "--backend", parsed.backend]
    told = []
    begun = time.monotonic()
    try:
        driver = Driver(words)
        driver.wait_for(folder / "out", parsed.images * 0.2)
        victim = max(workers(), key=lambda process: process.create_time())
        victim.send_signal(signal.SIGKILL)
        told.append(f"worker killed with {finished(folder / 'out')} images finished")
        driver.wait_for(folder / "out", parsed.images * 0.4)
        driver.process.send_signal(signal.SIGKILL)
        driver.process.wait()
        at_kill = finished(folder / "out")
        told.append(f"driver killed with {at_kill} images finished")
        kept = {path: path.stat().st_mtime_ns for path in (folder / "out").glob("part-*")}
        driver = Driver(words)
        driver.wait_for(folder / "out", parsed.images * 0.6)
        cluster.remove_node(second, allow_graceful=False)
        told.append(f"node taken away with {finished(folder / 'out')} images finished")
        cluster.add_node(num_cpus=1)
        code = driver.process.wait()
        print(driver.log(), file=sys.stderr)
    finally:
        cluster.shutdown()
    rows = pq.read_table(folder / "out", columns=["path", "error", "score"])
    ids = collections.Counter(rows["path"].to_pylist())
    expected = {str(path) for path in (folder / "in").iterdir()}
    errors = {row["path"] for row in rows.to_pylist() if row["error"] is not None}
    unscored = {row["path"] for row in rows.to_pylist() if row["score"] is None}
    repeated = [path.name for path, at in kept.items() if path.stat().st_mtime_ns != at]
    return {
        "images": parsed.images,
        "bytes_an_image": mean_size(folder / "in"),
        "damaged": len(bad),
        "rows": len(rows),
        "every_image_once": set(ids) == expected
        and max(ids.values()) == 1
        and errors == unscored == bad
        and not repeated
        and code == 1,
        "errors_are_the_damaged": errors == bad,
        "partitions": len(list((folder / "out").glob("part-*"))),
        "partitions_kept_by_the_restart": len(kept),
        "partitions_repeated_by_the_restart": len(repeated),
        "exit_code": code,
        "crashes": told,
        "minutes": (time.monotonic() - begun) / 60,
        "bytes_a_million_rows": size_of_results(folder / "out") / len(rows) * 1e6,
    }


class Driver:
    """The command in a process of its own; what it says goes into a file."""

    def __init__(self, words: list[Any]) -> None:
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "destseg", "batch", *map(str, words)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def log(self) -> str:
        """Return what it has said so far."""
        return Path(self._log.name).read_text(encoding="utf-8")

    def wait_for(self, output: Path, images: float) -> None:
        """Wait until so many images have results."""
        while finished(output) < images:
            if self.process.poll() is not None:
                raise SystemExit(f"it ended too early: {self.process.returncode}\n{self.log()}")
            time.sleep(0.2)


def finished(output: Path) -> int:
    """Return how many images have results."""
    return sum(pq.read_metadata(path).num_rows for path in output.glob("part-*.parquet"))


def workers() -> list[psutil.Process]:
    """Return the actors that inspect images, of this script's cluster alone."""
    found = psutil.Process().children(recursive=True)
    return [each for each in found if "MapWorker" in " ".join(cmdline(each))]


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def mean_size(folder: Path) -> float:
    return statistics.fmean(path.stat().st_size for path in folder.iterdir())


def size_of_results(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("part-*"))


# --- speed


def speed(parsed: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Take turns of one and of two actors that stay open, so that all see the same minutes."""
    import ray

    from destseg.batch_inspection.inspector import Inspector, Work, pack
    from destseg.batch_inspection.job import Job
    from destseg.batch_inspection.stored import plan
    from destseg.inference.backends import Runtime, choose
    from destseg.inference.bundle import load_bundle

    generate(folder / "in", 32, parsed.side, damaged=10**9)
    bundle = load_bundle(parsed.bundle)
    runtime = choose(bundle, Runtime(parsed.backend, threads=1))
    stored, (piece,), size = plan(str(folder / "in"), size=32)
    job = Job(str(folder), 32, 1, size, "", "", bundle.weights_sha256, runtime.backend)
    work = Work(job, stored, str(folder / "out"), runtime, 8)
    item = {"piece": piece.to_json()}
    ray.init("local", include_dashboard=False, log_to_driver=False, num_cpus=2)
    actor = ray.remote(num_cpus=1)(Inspector)
    actors = [actor.remote(work, pack(bundle, runtime.backend), _first) for _ in range(2)]
    ray.get([each.__call__.remote(item) for each in actors])
    processes = [each for each in psutil.Process().children(recursive=True) if is_actor(each)]
    rates: dict[int, list[float]] = {1: [], 2: []}
    costs: dict[int, list[float]] = {1: [], 2: []}
    for number in range(parsed.rounds):
        for count in (1, 2) if number % 2 else (2, 1):
            chosen = actors[:count] if count == 2 else [actors[number % 2]]
            before, begun = used(processes), time.perf_counter()
            ray.get([each.__call__.remote(item) for each in chosen for _ in range(2)])
            images = 2 * count * len(piece)
            rates[count].append(images / (time.perf_counter() - begun))
            costs[count].append(1e3 * (used(processes) - before) / images)
    memory = [each.memory_info().rss / 2**30 for each in processes]
    ray.shutdown()
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    dearer = [two / one for one, two in zip(costs[1], costs[2], strict=True)]
    return {
        "backend": runtime.backend,
        "side": parsed.side,
        "rounds": parsed.rounds,
        "images_per_second": {f"{n} actors": spread(rates[n]) for n in rates},
        "cpu_milliseconds_an_image": {f"{n} actors": spread(costs[n]) for n in costs},
        "ratio_of_rates_two_to_one": spread(ratios),
        "ratio_of_cpu_time_two_to_one": spread(dearer),
        "gib_an_actor": memory,
    }


def _first(_: str) -> int:
    return 1


def is_actor(process: psutil.Process) -> bool:
    return "ray::Inspector" in " ".join(cmdline(process))


def used(processes: list[psutil.Process]) -> float:
    """Return the seconds of a core that processes have used."""
    return sum(sum(each.cpu_times()[:2]) for each in processes)


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {"quarter": float(low), "median": float(middle), "three_quarters": float(high)}


# --- parts


def parts(parsed: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from destseg.batch_inspection.partitions import plan_files
    from destseg.batch_inspection.storage import list_files
    from destseg.data.images import decode_image
    from destseg.inference.predictor import load

    generate(folder / "in", 400, parsed.side, damaged=10**9)
    contents = [path.read_bytes() for path in sorted((folder / "in").iterdir())]
    predictor = load(parsed.bundle, backend=parsed.backend, threads=1, batch_size=8)
    pixels = np.stack([decode_image(content) for content in contents[:8]])
    predictor.predict(contents[:16])
    steps: dict[str, list[float]] = collections.defaultdict(list)
    for _ in range(parsed.rounds):
        steps["decode"].append(seconds(lambda: [decode_image(c) for c in contents[:64]]) / 64)
        steps["networks"].append(seconds(lambda: predictor._backend(pixels)) / 8)
        steps["all"].append(seconds(lambda: predictor.predict(contents[:64])) / 64)
    (folder / "many").mkdir()
    for number in range(100_000):
        (folder / "many" / f"{number:06}.png").touch()
    before = psutil.Process().memory_info().rss
    begun, used_before = time.perf_counter(), time.process_time()
    _, files = list_files(str(folder / "many"))
    listed, used_after = time.perf_counter(), time.process_time()
    pieces = plan_files(files, 1000)
    planned = time.perf_counter()
    after = psutil.Process().memory_info().rss
    sent = sum(len(piece.to_json()) for piece in pieces)
    return {
        "backend": predictor.backend_name,
        "bytes_an_image": mean_size(folder / "in"),
        "milliseconds_an_image_one_core": {
            name: 1e3 * statistics.median(values) for name, values in steps.items()
        },
        "listing_100000_files": {
            "list_seconds": listed - begun,
            "list_processor_seconds": used_after - used_before,
            "plan_seconds": planned - listed,
            "driver_bytes_a_path": (after - before) / 1e5,
            "sent_bytes_a_path": sent / 1e5,
        },
        **tasks(),
    }


def seconds(function: Any) -> float:
    """Return the processor time of this process: other programs do not count."""
    begun = time.process_time()
    function()
    return time.process_time() - begun


def tasks() -> dict[str, float]:
    """Return how many pieces a second a driver can hand out, with actors that do nothing."""
    import ray
    import ray.data

    ray.init("local", include_dashboard=False, log_to_driver=False, num_cpus=2)
    from destseg.batch_inspection.run import quiet
    from destseg.batch_inspection.tries import Tries

    with quiet():
        items = [{"piece": "x" * 30_000} for _ in range(2000)]
        answers = ray.data.from_items(items, override_num_blocks=len(items)).map(
            Nothing, fn_constructor_args=(Tries(),), num_cpus=1, concurrency=2
        )
        ends = [time.perf_counter() for _ in answers.iter_rows()]
    ray.shutdown()
    return {"pieces_handed_out_per_second": 1900 / (ends[-1] - ends[99])}


class Nothing:
    """An actor that asks what it has to ask, and is done."""

    def __init__(self, tries: Any) -> None:
        self._tries = tries

    def __call__(self, item: dict[str, Any]) -> dict[str, int]:
        """Ask how often this piece was begun, as every piece does."""
        return {"tries": self._tries(item["piece"][:20])}


if __name__ == "__main__":
    sys.exit(main())
