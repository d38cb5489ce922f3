"""``destseg serve`` as a process: what it says, its signals, its end."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from itertools import chain
from pathlib import Path

import pytest

from destseg.cli.main import main
from destseg.serving.models import openers
from serving.fakes import image

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


class Process:
    """A server that is up, what it said so far, and how to ask it."""

    def __init__(self, words, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "destseg", "serve", *map(str, words), "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.said = []
        self.url = self.wait_for(r"serving at (\S+)/")

    def wait_for(self, pattern):
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(pattern, line):
                return found.group(found.lastindex or 0)
        raise AssertionError(f"{pattern!r} is not in: {''.join(self.said)}")

    def ask(self, path, content=None, **headers):
        request = urllib.request.Request(self.url + path, content, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.said += self.process.stderr.readlines()
        return code


@pytest.fixture
def start(quantisable_bundle):
    started = []

    def run(*words, bundle=quantisable_bundle.folder, **environment):
        words = [bundle, "--backend", "onnx", "--threads", "1", *words]
        started.append(Process(words, **environment))
        return started[-1]

    yield run
    for each in started:
        each.process.kill()
        each.process.wait(60)
        each.process.stderr.close()


@POSIX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_answers_and_ends(start, number, quantisable_bundle):
    name = quantisable_bundle.folder.name
    server = start()
    assert server.url.startswith("http://127.0.0.1:")
    assert server.ask("/readyz") == {"status": "ready"}
    (model,) = server.ask("/v1/models")["models"]
    assert (model["name"], model["backend"]) == (name, "onnx")
    assert server.ask("/v1/inspect", image(200))["model"] == name
    assert server.end(number) == 0
    assert "Traceback" not in "".join(server.said)


@pytest.fixture
def certificate(tmp_path):
    return make_certificate(tmp_path)


def make_certificate(folder, *protection):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder.mkdir(exist_ok=True)
    made = [folder / "key.pem", folder / "certificate.pem"]
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        *(protection or ["-nodes"]),
        "-subj",
        "/CN=line.example",
    ]
    words += ["-keyout", str(made[0]), "-out", str(made[1])]
    subprocess.run(words, check=True, capture_output=True)
    return ["--key", made[0], "--certificate", made[1]]


@POSIX
@pytest.mark.parametrize("tls", [False, True])
def test_the_health_check_asks_with_and_without_tls(tls, start, request, monkeypatch):
    words = request.getfixturevalue("certificate") if tls else []
    server = start(*words)
    assert server.url.startswith("https://" if tls else "http://")
    # What a container is given for the outside is not for the loopback.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    port = server.url.rpartition(":")[2]
    asked = [sys.executable, "-W", "error", "-m", "destseg.cli.ready", port]
    assert subprocess.run(asked, capture_output=True, check=False).returncode == 0
    assert server.end() == 0
    assert "Invalid HTTP request" not in "".join(server.said)
    ended = subprocess.run(asked, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, b"")


@POSIX
def test_what_was_accepted_is_answered_before_the_end(start):
    server = start()
    content = image(9)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = f"POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content[:-10])
        assert server.ask("/readyz")  # it has read the beginning by now
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 60
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline:  # until nobody new is let in
                socket.create_connection((host, int(port)), timeout=1).close()
                time.sleep(0.01)
        connection.sendall(content[-10:])
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
    assert server.process.wait(60) == 0


@POSIX
def test_sighup_loads_the_model_anew(start, quantisable_bundle, tmp_path):
    folder = tmp_path / "part"
    shutil.copytree(quantisable_bundle.folder, folder)
    server = start(bundle=folder)
    before = server.ask("/v1/models")["models"][0]
    words = ["calibrate", str(folder), "--max-false-alarm-rate", "0.6"]
    assert main(words) == 0
    server.process.send_signal(signal.SIGHUP)
    server.wait_for("part: reloaded")
    after = server.ask("/v1/models")["models"][0]
    assert before["max_false_alarm_rate"] != after["max_false_alarm_rate"] == 0.6
    (folder / "manifest.json").write_text("{")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for("part: not reloaded, the model of before goes on")
    assert server.ask("/v1/inspect", image(5))["threshold"] == after["threshold"]
    assert server.end() == 0


@POSIX
def test_the_token_comes_from_the_environment(start):
    server = start(DESTSEG_TOKEN="geheim")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        server.ask("/v1/models")
    assert server.ask("/v1/models", Authorization="Bearer geheim")["models"]


def test_other_hosts_without_a_token_are_warned_of(start):
    assert "set DESTSEG_TOKEN" in "".join(start("--host", "0.0.0.0").said)
    assert "DESTSEG_TOKEN" not in "".join(start().said)


# --- what is refused before anything is served


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["nowhere"], 1, "nowhere"),
        (["nowhere", "--queue", "0"], 2, "--queue: expected at least 1"),
        (["nowhere", "--max-bytes", "0"], 2, "--max-bytes: expected at least 1"),
        (["nowhere", "--deadline", "0"], 2, "--deadline: expected more than 0"),
        (["nowhere", "--batch-size", "0"], 2, "--batch-size: expected at least 1"),
        (["nowhere", "--grace", "-1"], 2, "--grace: expected at least 0"),
        (["nowhere", "--key", "a.pem"], 2, "--certificate and --key"),
        (["nowhere", "--host", "no.such.host.invalid"], 1, "--host no.such.host.invalid"),
        (["nowhere", "--port", "99999"], 2, "--port: expected a number from 0 to 65535"),
        (["a/part", "b/part"], 2, "'part' twice"),
        (["=x"], 2, "NAME=FOLDER"),
    ],
)
def test_what_cannot_be_served_says_why(words, code, reason, capsys):
    port = [] if "--port" in words else ["--port", "0"]
    assert main(["serve", *words, *port]) == code
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"--key": "missing.pem"}, r"--key: expected a file in PEM .* missing\.pem: No such file"),
        ({"--certificate": "missing.pem"}, r"--certificate: .* missing\.pem: No such file"),
        (
            {"--certificate": "."},
            r"--certificate: expected a file in PEM .* got \.: Is a directory",
        ),
        ({"--certificate": "words"}, r"--certificate: expected a certificate .* got words: "),
        ({"--certificate": "{key}"}, r"--certificate: expected a certificate chain .*/key\.pem: "),
        ({"--key": "words"}, r"--key: expected the private key in PEM of .*, got words, which"),
        (
            {"--key": "{other}"},
            r"--key: expected the private key .* got .*other/key\.pem.*MISMATCH",
        ),
        ({"--key": "{secret}"}, r"--key: .* without a passphrase, got .*secret/key\.pem, which"),
    ],
)
def test_what_cannot_serve_tls_is_told_before_a_model_is_loaded(
    change, reason, certificate, tmp_path, monkeypatch, capsys
):
    other = make_certificate(tmp_path / "other")
    secret = make_certificate(tmp_path / "secret", "-passout", "pass:words")
    monkeypatch.chdir(tmp_path)
    Path("words").write_text("no PEM", encoding="utf-8")
    places = {"key": certificate[1], "other": other[1], "secret": secret[1]}
    words = dict(zip(certificate[::2], map(str, certificate[1::2]), strict=True))
    words |= {flag: path.format(**places) for flag, path in change.items()}
    assert main(["serve", "nowhere", "--port", "0", *chain.from_iterable(words.items())]) == 2
    err = capsys.readouterr().err
    assert re.search(reason, err), err
    assert "nowhere" not in err


def test_a_taken_port_is_told(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "nowhere", "--port", port]) == 1
    assert f"--port {port}: expected an address of this machine and a free port" in (
        capsys.readouterr().err
    )


def test_an_empty_token_is_no_token(monkeypatch, capsys):
    monkeypatch.setenv("DESTSEG_TOKEN", " ")
    assert main(["serve", "nowhere", "--port", "0"]) == 2
    assert "the bearer token (DESTSEG_TOKEN): expected one, got an empty" in capsys.readouterr().err


def test_without_the_extra_the_command_names_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "nowhere"]) == 1
    assert "Install the extra 'serve' with: pip install" in capsys.readouterr().err


def test_bundles_are_named_by_their_folder_or_as_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cap-2").mkdir()
    (tmp_path / "cap").symlink_to("cap-2")  # the version in use
    found = openers(["runs/bottle", "grid=runs/7", "runs/a=b", f"{tmp_path}/", "cap"])
    assert list(found) == ["bottle", "grid", "a=b", tmp_path.name, "cap"]
