"""What clients of the server see."""

import asyncio
import base64
import gc
import http.client
import io
import json
import re
import struct
import threading
import time
import tracemalloc
import zlib
from pathlib import Path

import httpx
import jsonschema
import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from destseg.errors import BundleError, SettingsError
from destseg.inference.calibration import TOLERANCE
from destseg.serving.app import create_app
from destseg.serving.guard import Guard
from destseg.serving.requests import Limits
from destseg.serving.telemetry import Telemetry
from serving.fakes import brightness, image, listening, make_predictor


def problem(response, status):
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    said = response.json()
    assert said["status"] == status
    return said["detail"]


@pytest.fixture(scope="module")
def app():
    made = create_app({"part": make_predictor})
    yield made
    made.state.service.models.close()


# --- results


@pytest.mark.parametrize("form", ["raw", "multipart"])
def test_an_image_is_answered_as_the_predictor_answers(client, form):
    content = image(204, side=50)
    if form == "raw":
        response = client.post("/v1/inspect", content=content)
    else:
        files = {"image": ("a part.png", content, "image/png")}
        response = client.post("/v1/inspect", files=files)
    assert response.status_code == 200
    said = response.json()
    expected = make_predictor().predict(content).to_json()
    name = "a part.png" if form == "multipart" else "image"
    assert {key: said[key] for key in expected} == {**expected, "path": name}
    assert said["is_defective"]
    assert said["score"] == pytest.approx(0.8)
    assert (said["model"], said["weights_sha256"]) == ("part", "abc")
    assert said["pixel_threshold"] == 0.3 + TOLERANCE
    assert said["heatmap"] is None
    assert 0 < said["seconds"] < 10


def test_the_heatmap_is_a_grey_png_on_the_fixed_scale(client):
    said = client.post("/v1/inspect?heatmap=true", content=image(77, side=40)).json()
    with Image.open(io.BytesIO(base64.b64decode(said["heatmap"]))) as heatmap:
        assert (heatmap.format, heatmap.mode, heatmap.size) == ("PNG", "L", (64, 64))
        assert (np.asarray(heatmap) == 77).all()


def test_whoever_accepts_png_gets_the_drawing(client):
    headers = {"Accept": "image/png"}
    response = client.post("/v1/inspect", content=image(204, side=50), headers=headers)
    assert response.headers["Content-Type"] == "image/png"
    with Image.open(io.BytesIO(response.content)) as drawn:
        assert drawn.size == (50, 50)
        assert drawn.getpixel((0, 20)) == (255, 0, 0)  # the region's outline
        assert drawn.getpixel((20, 20)) != (204, 0, 0)  # the heatmap over the image


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("IMAGE/PNG", "image/png"),
        ("image/png, application/json", "image/png"),
        ("image/*", "image/png"),
        ("image/avif,image/png,*/*;q=0.8", "image/png"),
        ("application/json;q=0.4, Image/png ;Q=0.5", "image/png"),
        ("image/png;q=0, application/json", "application/json"),
        ("image/png;q=0", "application/json"),
        ("image/png;q=0.000, image/*", "application/json"),
        ("application/json, image/png;q=0.5", "application/json"),
        ("image/png;q=0.5, */*", "application/json"),
        ("*/*", "application/json"),
        ("application/x-image/png", "application/json"),
        ("", "application/json"),
    ],
)
def test_the_answer_is_of_the_type_that_its_caller_would_rather_have(client, accept, kind):
    response = client.post("/v1/inspect", content=image(204), headers={"Accept": accept})
    assert (response.status_code, response.headers["Content-Type"]) == (200, kind)


def test_several_lines_of_accept_are_one(client):
    headers = [("Accept", "application/json;q=0.1"), ("Accept", "image/png")]
    response = client.post("/v1/inspect", content=image(204), headers=headers)
    assert response.headers["Content-Type"] == "image/png"


@pytest.mark.parametrize(
    "kind", ["Multipart/Form-Data", "MULTIPART/FORM-DATA ", "multipart/form-data"]
)
def test_a_form_is_one_in_any_letter_case(client, kind):
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    body = part + image(204) + b"\r\n--x--\r\n"
    headers = {"Content-Type": f"{kind}; boundary=x"}
    response = client.post("/v1/inspect", content=body, headers=headers)
    assert response.status_code == 200
    assert response.json()["path"] == "a.png"


def test_answers_and_errors_are_what_openapi_says(client):
    schema = client.get("/openapi.json").json()
    answer = schema["paths"]["/v1/inspect"]["post"]["responses"]

    resolved = json.loads(json.dumps(schema).replace("#/components/schemas/", "#/$defs/"))
    definitions = resolved["components"]["schemas"]
    cases = [
        (client.post("/v1/inspect", content=image(204)), "Inspection"),
        (client.get("/v1/models"), "ModelList"),
    ]
    for response, name in cases:
        wanted = {**definitions[name], "$defs": definitions, "additionalProperties": False}
        jsonschema.validate(response.json(), wanted)
    bad = client.post("/v1/inspect", content=b"x")
    content = answer["422"]["content"]["application/problem+json"]
    jsonschema.validate(bad.json(), {**content["schema"], "additionalProperties": False})
    (example,) = definitions["Inspection"]["examples"]
    jsonschema.validate(example, {**definitions["Inspection"], "$defs": definitions})


def test_the_example_of_the_protocol_can_be_sent_and_every_refusal_has_its_form(serve):
    client = serve()
    schema = client.get("/openapi.json").json()
    resolved = json.loads(json.dumps(schema).replace("#/components/schemas/", "#/$defs/"))
    definitions = resolved["components"]["schemas"]
    body = resolved["paths"]["/v2/models/{model}/infer"]["post"]["requestBody"]["content"]
    (example,) = body["application/json"]["schema"]["examples"]
    jsonschema.validate(example, body["application/json"]["schema"])
    answer = client.post("/v2/models/part/infer", json=example)
    assert answer.status_code == 200
    for said in (answer.json(), *definitions["InferAnswer"]["examples"]):
        wanted = {**definitions["InferAnswer"], "$defs": definitions}
        jsonschema.validate(said, {**wanted, "additionalProperties": False})
    assert [each["name"] for each in answer.json()["outputs"]] == ["score", "is_defective"]
    refused = client.post("/v2/models/part/infer", content=b"{")
    assert refused.status_code == 400
    jsonschema.validate(refused.json(), definitions["ProtocolProblem"])


def test_models_tell_what_their_threshold_rests_on(serve):
    client = serve({"part": make_predictor, "other": lambda: make_predictor(weights="def")})
    first, second = client.get("/v1/models").json()["models"]
    assert (first["name"], first["default"]) == ("part", True)
    assert (second["name"], second["default"]) == ("other", False)
    assert second["weights_sha256"] == "def"
    assert first["threshold"] == first["pixel_threshold"] == 0.3 + TOLERANCE
    assert first["calibration"] == {
        "count": 3,
        "scores": [0.1, 0.2, 0.3],
        "tolerance": TOLERANCE,
        "groups": None,
        "votes": None,
    }
    assert first["guaranteed_false_alarm_rate"] == first["max_false_alarm_rate"] == 0.25
    assert first["guarantee_note"] is None


def test_the_model_that_is_named_answers(serve):
    def inverted(images):
        return 1 - brightness(images)

    client = serve({"part": make_predictor, "other": lambda: make_predictor(inverted)})
    asked = {name: f"/v1/inspect?model={name}" for name in ("part", "other")}
    got = {name: client.post(url, content=image(255)).json() for name, url in asked.items()}
    assert (got["part"]["score"], got["other"]["score"]) == (1, 0)
    assert "served models (part, other), got 'nix'" in problem(
        client.post("/v1/inspect?model=nix", content=image(1)), 404
    )


# --- what is refused


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "got none"),
        (b"hello", "starts with b'hello'"),
        (image(1)[:60], "damaged"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(client, content, reason):
    assert reason in problem(client.post("/v1/inspect", content=content), 422)
    if content:
        files = {"image": ("x.png", content)}
        assert reason in problem(client.post("/v1/inspect", files=files), 422)


def test_forms_without_the_image_are_refused(client):
    wrong = client.post("/v1/inspect", files={"photo": ("x.png", image(1))})
    assert "got the fields: photo" in problem(wrong, 422)
    text = client.post("/v1/inspect", files={"image": (None, "text")})
    assert "a file in the field image" in problem(text, 422)
    broken = {"Content-Type": "multipart/form-data"}
    assert "multipart form" in problem(
        client.post("/v1/inspect", content=b"x", headers=broken), 422
    )


def test_too_many_pixels_are_refused_by_the_header(serve):
    client = serve({"part": lambda: make_predictor(max_pixels=900)})
    assert client.post("/v1/inspect", content=image(1, side=30)).status_code == 200
    refused = client.post("/v1/inspect", content=image(1, side=31))
    assert "expected at most 900 pixels" in problem(refused, 422)


@pytest.mark.parametrize("declared", [True, False])
def test_too_many_bytes_are_refused(serve, declared):
    content = image(1)
    client = serve(limits=Limits(max_bytes=len(content)))
    assert client.post("/v1/inspect", content=content).status_code == 200
    more = content + b"."
    body = more if declared else iter([more[:9], more[9:]])  # an iterator is sent in chunks
    refused = client.post("/v1/inspect", content=body)
    assert f"at most {len(content)} bytes" in problem(refused, 413)


@pytest.mark.parametrize("path", ["/v1/inspect", "/v2/models/part/infer"])
def test_a_compressed_body_is_refused(client, path):
    for encoding in ("gzip", "br"):
        refused = client.post(path, content=image(1), headers={"Content-Encoding": encoding})
        assert refused.status_code == 415
        assert f"got Content-Encoding: {encoding}; send it without" in refused.text
    plain = client.post(path, content=image(1), headers={"Content-Encoding": "identity"})
    assert plain.status_code == (200 if path == "/v1/inspect" else 400)


def test_who_sends_far_too_much_reads_the_reason():
    """Not a broken connection: the answer comes while the client is still sending."""
    app = create_app({"part": make_predictor}, limits=Limits(max_bytes=1000))
    with listening(app) as port:
        for _ in range(4):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/v1/inspect", bytes(2**25))
            refused = connection.getresponse()
            assert refused.status == 413
            assert "at most 1000 bytes" in json.loads(refused.read())["detail"]
            connection.close()
        chunks = iter([bytes(2**20)] * 32)
        refused = httpx.post(f"http://127.0.0.1:{port}/v1/inspect", content=chunks)
        assert "at most 1000 bytes" in problem(refused, 413)


def test_unknown_paths_and_methods_are_problems_too(client):
    problem(client.get("/nix"), 404)
    problem(client.get("/page/nix"), 404)
    problem(client.get("/page/..%2Fapp.py"), 404)
    problem(client.get("/v1/inspect"), 405)
    assert "heatmap" in problem(client.post("/v1/inspect?heatmap=maybe", content=b"1"), 422)


class Closed:
    """A backend that is closed until it is opened."""

    def __init__(self):
        self.began, self.open, self.warm = threading.Event(), threading.Event(), True

    def __call__(self, images):
        if self.warm:  # the image that every model inspects when it is loaded
            self.warm = False
        else:
            self.began.set()
            assert self.open.wait(30)
        return brightness(images)


def test_a_full_queue_is_told_before_anything_is_read(serve):
    backend = Closed()
    client = serve({"part": lambda: make_predictor(backend)}, limits=Limits(queue=1))
    answers = []
    first = threading.Thread(
        target=lambda: answers.append(client.post("/v1/inspect", content=image(51)))
    )
    first.start()
    assert backend.began.wait(30)
    refused = client.post("/v1/inspect", content=image(1))
    assert "room in the queue" in problem(refused, 503)
    assert int(refused.headers["Retry-After"]) >= 1
    backend.open.set()
    first.join(30)
    assert answers[0].json()["score"] == pytest.approx(0.2)
    assert client.post("/v1/inspect", content=image(1)).status_code == 200


def test_a_deadline_that_passes_is_told(serve, caplog):
    backend = Closed()
    client = serve({"part": lambda: make_predictor(backend)})
    headers = {"X-Deadline-Ms": "50"}
    began = time.monotonic()
    late = client.post("/v1/inspect", content=image(1), headers=headers)
    assert "within 0.05 s" in problem(late, 504)
    assert time.monotonic() - began < 9
    backend.open.set()
    assert client.post("/v1/inspect", content=image(1)).status_code == 200
    wrong = client.post("/v1/inspect", content=image(1), headers={"X-Deadline-Ms": "soon"})
    assert "X-Deadline-Ms" in problem(wrong, 422)
    gc.collect()
    assert "never retrieved" not in caplog.text  # asyncio's, of an answer that nobody waits for


def test_a_broken_model_is_a_problem_and_not_the_end(serve):
    class Breaks(Closed):
        def __call__(self, images):
            maps = brightness(images)
            return maps if self.warm and not setattr(self, "warm", False) else maps * np.nan

    client = serve({"part": lambda: make_predictor(Breaks())})
    assert "finite numbers" in problem(client.post("/v1/inspect", content=image(1)), 500)
    assert client.get("/healthz").status_code == 200


def test_what_stops_at_an_image_of_many_pixels_is_its_header(serve):
    """A bomb: 400 million pixels in a few hundred bytes, refused without decoding any."""
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)

    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    nothing = chunk(b"IDAT", zlib.compress(bytes(100)))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + nothing + chunk(b"IEND", b"")
    tracemalloc.start()
    refused = serve({"part": lambda: make_predictor(max_pixels=10**8)}).post(
        "/v1/inspect", content=bomb
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "expected at most 100000000 pixels" in problem(refused, 422)
    assert peak < 50 * 2**20


def test_every_deadline_is_a_deadline_or_refused(client):
    for asked in ("soon", "", "9" * 400, "1e400", "nan", "-5", "0x10"):
        headers = {"X-Deadline-Ms": asked}
        answer = client.post("/v1/inspect", content=image(1), headers=headers)
        assert answer.status_code == {"-5": 504, "9" * 400: 200, "1e400": 200}.get(asked, 422), (
            asked
        )


@pytest.mark.parametrize("asked", ["0", "-1", "-0.0"])
def test_a_deadline_that_has_passed_already_is_one_of_no_time(asked, client):
    late = client.post("/v1/inspect", content=image(1), headers={"X-Deadline-Ms": asked})
    assert "expected a result within 0 s, got none" in problem(late, 504)


def test_a_form_with_the_image_as_text_says_what_is_missing(client):
    text = client.post("/v1/inspect", files={"image": (None, "words")})
    assert "in the field image, got text: give the field a filename" in problem(text, 422)
    other = client.post("/v1/inspect", files={"part": ("a.png", image(1))})
    assert "in the field image, got the fields: part" in problem(other, 422)


@given(st.binary(max_size=300), st.sampled_from(["", "; charset=idna", "; charset=utf-16"]))
@example(b"\\ud800", "; charset=unicode_escape")  # a name that no answer can say
@example(b"\xff" * 99, "; charset=idna")
def test_any_form_is_answered(app, content, charset):
    line = b'--x\r\nContent-Disposition: form-data; name="image"; filename="'
    kind = {"Content-Type": f"multipart/form-data; boundary=x{charset}"}
    client = TestClient(app)
    for body in (content, line + content + b'"\r\n\r\n' + image(1) + b"\r\n--x--\r\n"):
        answer = client.post("/v1/inspect", content=body, headers=kind)
        assert answer.status_code in (200, 422), answer.text


# --- callers that leave, probes, closing


def exchange(app, body, *, after):
    """Send a request to an application by hand; ``after`` gives what comes behind the body."""
    sent, messages = [], [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        return messages.pop(0) if messages else await after()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/inspect", "query_string": b""}
    scope |= {"headers": [], "http_version": "1.1", "scheme": "http", "root_path": ""}
    asyncio.run(app(scope, receive, send))
    return sent


def test_who_hangs_up_while_waiting_is_not_inspected(serve):
    backend = Closed()
    client = serve({"part": lambda: make_predictor(backend)})
    first = threading.Thread(target=lambda: client.post("/v1/inspect", content=image(51)))
    first.start()
    assert backend.began.wait(30)

    async def hang_up():
        return {"type": "http.disconnect"}

    sent = exchange(client.app, image(1), after=hang_up)
    assert sent[0]["status"] == 400
    backend.open.set()
    first.join(30)
    client.post("/v1/inspect", content=image(1))
    batches = 'destseg_batch_images_sum{model="part"} '
    assert f"{batches}2.0" in client.get("/metrics").text  # first and last
    assert 'destseg_errors_total{status="400"} 1.0' in client.get("/metrics").text


def test_probes_say_when_the_server_is_closing(serve):
    client = serve()
    for path in ("/readyz", "/v2/health/ready"):
        assert client.get(path).status_code == 200
    client.app.state.service.models.close()
    assert "closing" in problem(client.get("/readyz"), 503)
    assert client.get("/v2/health/ready").status_code == 503
    assert client.get("/healthz").status_code == client.get("/v2/health/live").status_code == 200
    problem(client.post("/v1/inspect", content=image(1)), 503)


def test_probes_may_ask_for_the_head_alone(serve):
    client = serve(token="geheim")
    for path in ("/", "/healthz", "/readyz"):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b""), path
    refused = client.options("/readyz")
    assert refused.status_code == 405
    assert "GET" in refused.headers["Allow"]


# --- the token


@pytest.mark.parametrize("token", ["", " ", "\n"])
def test_an_empty_token_is_refused_before_a_model_is_loaded(token):
    def opener():
        raise AssertionError("a model was loaded")

    with pytest.raises(SettingsError, match=r"bearer token.*expected one, got an empty one"):
        create_app({"part": opener}, token=token)
    with pytest.raises(SettingsError, match="bearer token"):
        Guard(opener, token, Telemetry())


def test_without_the_token_only_page_and_probes_answer(serve):
    client = serve(token="geheim")
    for path in ("/", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
        assert client.get(path).status_code == 200, path
    for path in ("/v1/models", "/metrics", "/openapi.json", "/v2", "/v2/models/part"):
        assert client.get(path).status_code == 401, path
    for shown in ("", "Bearer", "Bearer nix", "Basic geheim", "Bearer geheimer", "geheim"):
        headers = {"Authorization": shown}
        refused = client.post("/v1/inspect", content=image(1), headers=headers)
        assert "Authorization" in problem(refused, 401)
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    for shown in ("Bearer geheim", "bearer geheim"):
        headers = {"Authorization": shown}
        assert client.post("/v1/inspect", content=image(1), headers=headers).status_code == 200


# --- reload and metrics


def test_a_reload_replaces_the_model_and_a_failed_one_keeps_it(serve):
    weights = iter(["first", "second"])

    def opener():
        try:
            return make_predictor(weights=next(weights))
        except StopIteration:
            raise BundleError("changed on disk") from None

    client = serve({"part": opener})

    def inspected():
        return client.post("/v1/inspect", content=image(1)).json()["weights_sha256"]

    models = client.app.state.service.models
    assert inspected() == "first"
    models.reload()
    assert inspected() == "second"
    models.reload()
    assert inspected() == "second"
    page = client.get("/metrics").text
    assert 'destseg_reloads_total{model="part",outcome="done"} 1.0' in page
    assert 'destseg_reloads_total{model="part",outcome="failed"} 1.0' in page
    assert page.count("destseg_model_info{") == 1
    assert 'weights_sha256="second"' in page


@pytest.mark.parametrize("error", [OSError("disk"), RuntimeError("no graph"), MemoryError()])
def test_a_reload_that_fails_in_any_way_keeps_the_model(serve, error, caplog):
    """Runtimes raise their own errors for files that they cannot use."""
    found = iter([make_predictor(weights="first")])

    def opener():
        for predictor in found:
            return predictor
        raise error

    client = serve({"part": opener})
    client.app.state.service.models.reload()
    assert "not reloaded, the model of before goes on" in caplog.text
    said = client.post("/v1/inspect", content=image(1)).json()
    assert said["weights_sha256"] == "first"
    assert client.get("/readyz").status_code == 200


def test_a_model_that_fails_at_its_first_image_is_not_put_in_place(serve):
    def broken(images):
        raise RuntimeError("wrong shape")

    found = iter([make_predictor(), make_predictor(broken)])
    client = serve({"part": lambda: next(found)})
    client.app.state.service.models.reload()
    assert client.post("/v1/inspect", content=image(1)).status_code == 200


def test_a_reload_loses_no_image(serve):
    client = serve({"part": make_predictor})
    models, answers = client.app.state.service.models, []

    def ask():
        for red in range(40):
            said = client.post("/v1/inspect", content=image(red))
            answers.append((said.status_code, round(said.json()["score"] * 255) == red))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        models.reload()
    for thread in threads:
        thread.join()
    assert answers == [(200, True)] * 120


def test_metrics_count_what_happened(client):
    for red in (10, 20, 250):
        client.post("/v1/inspect", content=image(red))
    client.post("/v1/inspect", content=b"x")
    client.post("/v1/inspect?model=nix", content=image(1))
    client.get("/nix")
    lines = dict(
        line.rsplit(" ", 1)
        for line in client.get("/metrics").text.splitlines()
        if not line.startswith("#")
    )
    assert float(lines['destseg_request_seconds_count{model="part",status="200"}']) == 3
    assert float(lines['destseg_errors_total{status="422"}']) == 1
    assert float(lines['destseg_errors_total{status="404"}']) == 2
    assert float(lines['destseg_decisions_total{decision="good",model="part"}']) == 2
    assert float(lines['destseg_decisions_total{decision="defective",model="part"}']) == 1
    assert float(lines['destseg_score_sum{model="part"}']) == pytest.approx(280 / 255)
    assert float(lines['destseg_queue_depth{model="part"}']) == 0
    assert float(lines['destseg_threshold{model="part"}']) == 0.3 + TOLERANCE
    assert lines['destseg_batch_images_count{model="part"}'] == "4.0"


def test_the_metrics_that_deployment_speaks_of_are_there(client):
    client.post("/v1/inspect", content=image(1))
    page = client.get("/metrics").text
    text = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:destseg|process)_[a-z_]+", text))
    assert len(named) > 8
    assert [name for name in sorted(named) if not re.search(rf"^# TYPE {name}\b", page, re.M)] == []


# --- the page


def test_the_page_and_its_parts_are_locked_to_this_server(client):
    page = client.get("/")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    script = client.get("/page/page.js")
    assert "javascript" in script.headers["Content-Type"]
    assert script.headers["X-Content-Type-Options"] == "nosniff"
