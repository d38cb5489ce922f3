"""What a server answers, against the predictor in it; and whether it stands ten thousand requests.

    python benchmarks/serving.py BUNDLE IMAGES [--rounds N] [--soak N] [--results FILE]

``destseg serve`` runs as a process of its own on the loopback; the clients are 16 (and 1)
connections of this process, each sending the next image when it has its answer.  In turns with
it: the predictor in this process on the same files (decoding included), and its backend alone on
decoded images.  All share the same cores, the clients' work too.  Where other programs run beside
it, rates say little; processor time an image is counted as well, which they change less.

The soak sends requests of which one in five is bad in one of several ways, checks the status of
each, and reads the server's memory and open files from its metrics along the way.  Afterwards the
model is loaded anew some times (SIGHUP), and memory is read after each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import destseg
from destseg.data.images import read_image, resize_for_model
from destseg.data.kinds import IMAGE_SUFFIXES
from provenance import commit, environment

RESULTS = Path(__file__).parent / "results" / "serving-cpu.json"
CONCURRENCY = 16
PATIENCE = 120  # seconds for an answer in the soak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("bundle")
    parser.add_argument("images", help="folder of image files")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7, help="0 leaves out the speed")
    parser.add_argument("--requests", type=int, default=400, help="in a round")
    parser.add_argument("--soak", type=int, default=10_000, help="requests; 0 leaves it out")
    parser.add_argument("--reloads", type=int, default=10, help="after the soak")
    parser.add_argument("--results", default=str(RESULTS))
    parser.add_argument("--device-name", default="", help="what the machine is, in words")
    parsed = parser.parse_args()
    files = [path.read_bytes() for path in image_files(parsed.images)]
    wrong = []
    with server(parsed) as (port, process):
        if parsed.rounds:
            keep(parsed, "speed", measure(parsed, files, port))
        if parsed.soak:
            endured = asyncio.run(soak(port, files, parsed.soak))
            wrong = endured["wrong"]
            reloaded = asyncio.run(reload(port, process, parsed.reloads))
            keep(parsed, "soak", {**endured, "resident_mib_after_each_reload": reloaded})
    return 1 if wrong else 0


def keep(parsed: argparse.Namespace, name: str, found: dict[str, Any]) -> None:
    """Put one part into the file of results, with where it came from."""
    predictor = destseg.load(parsed.bundle, backend=parsed.backend)
    came_from = {
        "device": parsed.device_name,
        "commit": commit(),
        **environment("torch", "onnxruntime", "openvino", "fastapi", "uvicorn", "numpy"),
        "backend": predictor.backend_name,
        "image_size": predictor.bundle.settings.data.image_size,
        "threads": parsed.threads,
        "load_average_afterwards": [round(each, 1) for each in os.getloadavg()],
    }
    path = Path(parsed.results)
    parts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    parts[name] = {**came_from, **found}
    path.write_text(json.dumps(parts, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: written to {path}", flush=True)


@contextlib.contextmanager
def server(parsed: argparse.Namespace) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Run ``destseg serve`` and give its port and process; a bundle is served as ``model``."""
    words = [sys.executable, "-m", "destseg", "serve", f"model={parsed.bundle}", "--port", "0"]
    # Whatever else runs beside it, nobody is to be refused here for being late.
    words += ["--deadline", "300", "--backend", parsed.backend, "--threads", str(parsed.threads)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr or ():
            if found := re.search(r"serving at http://[^:]+:(\d+)/", line):
                yield int(found.group(1)), process
                break
        else:
            raise SystemExit("the server did not start")
    finally:
        process.terminate()
        process.communicate(timeout=60)


# --- speed


def measure(parsed: argparse.Namespace, files: list[bytes], port: int) -> dict[str, Any]:
    """Return rates and latencies, rounds in turns."""
    predictor = destseg.load(
        parsed.bundle, backend=parsed.backend, threads=parsed.threads, batch_size=4
    )
    data = predictor.bundle.settings.data
    decoded = np.stack(
        [resize_for_model(read_image(path), data) for path in image_files(parsed.images)]
    )
    sent = list(itertools.islice(itertools.cycle(files), parsed.requests))
    rates: dict[str, list[float]] = {name: [] for name in ("backend", "in_process", "http", "one")}
    latencies: dict[str, list[float]] = {"http": [], "one": []}
    parts = ("backend", "in_process", "server", "clients")
    costs: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(parsed.rounds + 1):
        clock = [time.process_time()]
        found = {"backend": rate_of_backend(predictor._backend, decoded, parsed.requests)}
        clock.append(time.process_time())
        found["in_process"] = rate_in_process(predictor, sent)
        clock.append(time.process_time())
        spent = {"backend": clock[1] - clock[0], "in_process": clock[2] - clock[1]}
        for name, connections in (("http", CONCURRENCY), ("one", 1)):
            before = time.process_time(), cpu_of_server(port)
            began = time.perf_counter()
            times = asyncio.run(load(port, sent, connections))
            found[name] = len(sent) / (time.perf_counter() - began)
            if name == "http":
                spent["clients"] = time.process_time() - before[0]
                spent["server"] = cpu_of_server(port) - before[1]
            if number:  # the first round warms up
                latencies[name] += times
        if number:
            for name, value in found.items():
                rates[name].append(value)
            for name, value in spent.items():
                costs[name].append(1e3 * value / len(sent))
            print({name: round(value, 1) for name, value in found.items()}, flush=True)
    both = np.add(costs["server"], costs["clients"])
    return {
        "rounds": parsed.rounds,
        "requests_a_round": parsed.requests,
        "images_per_s": {name: summary(values) for name, values in rates.items()},
        "cpu_ms_an_image": {name: summary(values) for name, values in costs.items()},
        "cpu_backend_to_server": summary(np.divide(costs["backend"], costs["server"])),
        "cpu_in_process_to_server": summary(np.divide(costs["in_process"], costs["server"])),
        "cpu_in_process_to_server_and_clients": summary(np.divide(costs["in_process"], both)),
        "http_to_in_process": summary(np.divide(rates["http"], rates["in_process"])),
        "http_to_backend": summary(np.divide(rates["http"], rates["backend"])),
        "latency_ms": {
            name: {f"p{q}": round(1e3 * float(np.percentile(times, q)), 1) for q in (50, 95, 99)}
            for name, times in latencies.items()
        },
        "connections": {"http": CONCURRENCY, "one": 1},
    }


def cpu_of_server(port: int) -> float:
    """Return the seconds of processor time that the server has used."""
    return float(asyncio.run(metrics(port))["process_cpu_seconds_total"])


def image_files(folder: str) -> list[Path]:
    return sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def rate_of_backend(backend: Any, images: Any, count: int) -> float:
    began = time.perf_counter()
    for start in range(0, count, 4):
        backend(images[np.arange(start, start + 4) % len(images)])
    return count / (time.perf_counter() - began)


def rate_in_process(predictor: destseg.Predictor, files: list[bytes]) -> float:
    began = time.perf_counter()
    assert sum(1 for _ in predictor.stream(files)) == len(files)
    return len(files) / (time.perf_counter() - began)


def summary(values: Any) -> dict[str, Any]:
    low, middle, high = (round(float(np.percentile(values, q)), 3) for q in (10, 50, 90))
    return {"median": middle, "p10_p90": [low, high]}


# --- clients


class Connection:
    """One kept-alive connection, as lean as can be: the client's work is on the same cores."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, body: bytes, path: str = "/v1/inspect", headers: str = "") -> int:
        """Return the status of a POST of a body."""
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        return (await self.send(head.encode() + headers.encode() + b"\r\n" + body))[0]

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Return the status and the body that a request is answered with."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"content-length: (\d+)", head)
        body = await reader.readexactly(int(length.group(1)) if length else 0)
        if b"connection: close" in head:
            self.close()
        return int(head.split(b" ", 2)[1]), body

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def load(port: int, files: list[bytes], connections: int) -> list[float]:
    """Send images over some connections; return the seconds of each answer."""
    waiting, times = iter(files), []

    async def work() -> None:
        connection = Connection(port)
        for content in waiting:
            began = time.perf_counter()
            status = await connection.ask(content)
            times.append(time.perf_counter() - began)
            if status != 200:
                raise SystemExit(f"expected 200, got {status}")
        connection.close()

    await asyncio.gather(*(work() for _ in range(connections)))
    return times


# --- soak


class Bad(NamedTuple):
    """A request that is bad in one way, and what it must be answered with."""

    status: int
    body: bytes
    path: str = "/v1/inspect"
    headers: str = ""


def bad_requests(content: bytes) -> list[Bad]:
    form = "Content-Type: multipart/form-data; boundary=x\r\n"
    return [
        Bad(422, b"no image"),
        Bad(422, content[: len(content) // 2]),
        Bad(422, b"--x\r\nnonsense", headers=form),
        Bad(404, content, "/v1/inspect?model=nix"),
        Bad(413, b""),  # see ``ask_badly``
        Bad(504, content, headers="X-Deadline-Ms: 0\r\n"),
        Bad(400, b"{", "/v2/models/model/infer"),
        Bad(0, content),  # hangs up in the middle
    ]


async def ask_badly(connection: Connection, port: int, bad: Bad) -> int:
    if bad.status == 413:
        head = b"POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
        status, _ = await connection.send(head)
        connection.close()  # the body that was guaranteed is what the server would read next
        return status
    if bad.status == 0:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(bad.body)}\r\n\r\n".encode()
        writer.write(head.replace(b"POST /", b"POST /v1/inspect") + bad.body[: len(bad.body) // 2])
        await writer.drain()
        writer.close()
        return 0
    return await connection.ask(bad.body, bad.path, bad.headers)


async def soak(port: int, files: list[bytes], requests: int) -> dict[str, Any]:
    """Send good and bad requests; return what was wrong, and the server's size along the way."""
    numbers, wrong, sizes, done = iter(range(requests)), [], [], 0

    async def work() -> None:
        nonlocal done
        connection = Connection(port)
        for number in numbers:
            content = files[number % len(files)]
            wanted, status = 200, None
            with contextlib.suppress(TimeoutError):  # without an answer it is wrong, not waited for
                async with asyncio.timeout(PATIENCE):
                    if number % 5 == 4:
                        choices = bad_requests(content)
                        bad = choices[number // 5 % len(choices)]
                        wanted, status = bad.status, await ask_badly(connection, port, bad)
                    else:
                        status = await connection.ask(content)
            if status != wanted:
                wrong.append({"request": number, "expected": wanted, "got": status})
            done += 1
            if done % max(1, requests // 10) == 0:
                sizes.append({"requests": done, **await size_of_server(port)})
                print(sizes[-1], flush=True)
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return {
        "requests": requests,
        "bad": requests // 5,
        "answered": done,
        "wrong": wrong,
        "seconds": round(time.perf_counter() - began, 1),
        "server": sizes,
    }


async def reload(port: int, process: subprocess.Popen[str], times: int) -> list[float]:
    """Have the model loaded anew some times; return the server's memory after each."""
    sizes, done = [], 'destseg_reloads_total{model="model",outcome="done"}'
    for number in range(1, times + 1):
        process.send_signal(signal.SIGHUP)
        while float((await metrics(port)).get(done, 0)) < number:
            await asyncio.sleep(0.1)
        sizes.append((await size_of_server(port))["resident_mib"])
        print({"reload": number, "resident_mib": sizes[-1]}, flush=True)
    return sizes


async def metrics(port: int) -> dict[str, str]:
    connection = Connection(port)
    _, body = await connection.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    connection.close()
    return dict(line.rsplit(" ", 1) for line in body.decode().splitlines() if line[:1] != "#")


async def size_of_server(port: int) -> dict[str, float]:
    values = await metrics(port)
    return {
        "resident_mib": round(float(values["process_resident_memory_bytes"]) / 2**20, 1),
        "open_files": float(values["process_open_fds"]),
        "waiting": float(values['destseg_queue_depth{model="model"}']),
    }


if __name__ == "__main__":
    sys.exit(main())
