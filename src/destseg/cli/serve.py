"""``destseg serve``: trained models over HTTP."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import destseg
from destseg.cli.flags import add_runtime_flags, command_parser, runtime_options
from destseg.data.paths import require_given
from destseg.errors import DestsegError, SettingsError, needs_extra

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

TOKEN = "DESTSEG_TOKEN"

DESCRIPTION = f"""Answer images over HTTP with trained models, and serve a page to try them.

POST /v1/inspect takes an image, raw or as the form field "image", and gives JSON; the page at /
does the same by hand.  GET /v1/models, /healthz, /readyz, /metrics (Prometheus), /openapi.json;
below /v2 the Open Inference Protocol.  With the environment variable {TOKEN} set, all but the page
and the probes ask for "Authorization: Bearer TOKEN".  SIGHUP loads the models anew without a pause;
SIGTERM and Ctrl-C answer what was accepted and end.
"""

EPILOG = """examples:
  destseg serve runs/bottle
  destseg serve bottle=runs/bottle-3 grid=runs/grid --host 0.0.0.0 --port 9000 --backend openvino
  curl --data-binary @part.png 'http://127.0.0.1:8080/v1/inspect?model=bottle'
  curl -F image=@part.png -H 'Accept: image/png' http://127.0.0.1:8080/v1/inspect > drawn.png
"""


def run(words: list[str]) -> int:
    """Run the command with its arguments and return the exit code."""
    parsed = _parser().parse_args(words)
    for name, least in (("batch_size", 1), ("grace", 0)):
        if getattr(parsed, name) < least:
            given = getattr(parsed, name)
            raise SettingsError(
                f"--{name.replace('_', '-')}: expected at least {least}, got {given}"
            )
    if not 0 <= parsed.port <= 65535:
        raise SettingsError(f"--port: expected a number from 0 to 65535, got {parsed.port}")
    if (parsed.certificate is None) != (parsed.key is None):
        raise SettingsError("--certificate and --key: expected both or neither, got one")
    for path in (parsed.certificate, parsed.key):
        if path is not None:
            require_given(path)  # else it would serve without TLS
    if parsed.certificate is not None:
        _require_tls(parsed.certificate, parsed.key)
    token = os.environ.get(TOKEN)
    with needs_extra("serve", "serving over HTTP"):
        import uvicorn

    with _listen(parsed.host, parsed.port) as listening:
        app = destseg.create_app(
            parsed.bundles,
            token=token,
            queue=parsed.queue,
            deadline=parsed.deadline,
            max_bytes=parsed.max_bytes,
            batch_size=parsed.batch_size,
            **runtime_options(parsed),
        )
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=parsed.grace,
                # A line with a slow cycle, and a proxy, keep their connection between two parts.
                timeout_keep_alive=75,
                ssl_certfile=parsed.certificate,
                ssl_keyfile=parsed.key,
            )
        )
        with _signals(app, server):
            listening.listen()
            _announce(app, listening, parsed, token)
            server.run(sockets=[listening])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("serve", DESCRIPTION, EPILOG)
    parser.add_argument(
        "bundles",
        metavar="BUNDLE",
        nargs="+",
        help="folder of a trained model, served under the folder's name, or NAME=FOLDER; the first "
        "is the default",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0 is every one (default: 127.0.0.1, this machine alone)",
    )
    parser.add_argument(
        "--port", type=int, default=8080, metavar="N", help="0 takes a free one (default: 8080)"
    )
    parser.add_argument("--certificate", metavar="FILE", help="TLS certificate chain (PEM)")
    parser.add_argument("--key", metavar="FILE", help="TLS private key (PEM)")
    section = parser.add_argument_group("limits")
    section.add_argument(
        "--queue",
        type=int,
        default=64,
        metavar="N",
        help="images of a model that may wait or be in work; more are answered 503 (default: 64)",
    )
    section.add_argument(
        "--deadline",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds for a request; then 504 (default: 10; X-Deadline-Ms asks for less)",
    )
    section.add_argument(
        "--max-bytes",
        type=int,
        default=32 * 2**20,
        metavar="N",
        help="largest body; more is answered 413 (default: 33554432)",
    )
    section.add_argument(
        "--grace",
        type=int,
        default=30,
        metavar="S",
        help="seconds for accepted requests at the end (default: 30)",
    )
    add_runtime_flags(parser)
    parser.add_argument(
        "--batch-size",
        type=int,
        default=4,
        metavar="N",
        help="images that go through the networks together; small ones keep the answers of a "
        "CPU steady, a GPU wants more (default: 4)",
    )
    return parser


def _require_tls(certificate: str, key: str) -> None:
    """Refuse what cannot serve TLS before the models are loaded; uvicorn would after that."""
    for flag, path in (("certificate", certificate), ("key", key)):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise SettingsError(
                f"--{flag}: expected a file in PEM that can be read, got {path}: {error.strerror}"
            ) from error

    def passphrase() -> str:
        raise SettingsError(
            f"--key: expected a private key without a passphrase, got {key}, which is encrypted. "
            "Write it decrypted, for the server's user alone: openssl pkey -in KEY -out FILE"
        )

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(certificate)
    except ssl.SSLError as error:
        raise SettingsError(
            f"--certificate: expected a certificate chain in PEM, got {certificate}: {error}"
        ) from error
    try:
        context.load_cert_chain(certificate, key, passphrase)
    except ssl.SSLError as error:
        raise SettingsError(
            f"--key: expected the private key in PEM of the first certificate in {certificate}, "
            f"got {key}, which OpenSSL does not take with it: {error}"
        ) from error


def _listen(host: str, port: int) -> socket.socket:
    """Open the port before the models are loaded, which takes longer than to learn it is taken."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise DestsegError(
            f"--host {host} --port {port}: expected an address of this machine and a free port, "
            f"got: {error}"
        ) from error
    return listening


@contextlib.contextmanager
def _signals(app: FastAPI, server: uvicorn.Server) -> Iterator[None]:
    models = app.state.service.models

    def reload(*_: object) -> None:
        # Not here: it takes a second, and the main thread answers.
        threading.Thread(target=models.reload, name="destseg-reload", daemon=True).start()

    def end(*_: object) -> None:
        server.should_exit = True

    # uvicorn takes these over while it runs, then raises them again for who had them before.
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    if hasattr(signal, "SIGHUP"):
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, reload)
    try:
        yield
    finally:
        for number, found in before.items():
            signal.signal(number, signal.SIG_DFL if found is None else found)


def _announce(
    app: FastAPI, listening: socket.socket, parsed: argparse.Namespace, token: str | None
) -> None:
    host, port = listening.getsockname()[:2]
    for model in app.state.service.models:
        print(f"destseg: {model.name}: {model.predictor.backend_name}", file=sys.stderr)
    scheme = "http" if parsed.certificate is None else "https"
    shown = f"[{host}]" if ":" in host else host
    if token is None and not (host.startswith("127.") or host == "::1"):
        print(
            f"destseg: everybody who reaches {shown} may ask; set {TOKEN} to ask for a token",
            file=sys.stderr,
        )
    print(f"destseg: serving at {scheme}://{shown}:{port}/", file=sys.stderr, flush=True)
