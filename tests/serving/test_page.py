"""The page in a real browser, against a small server of this file that keeps the HTTP contract."""

import base64
import contextlib
import csv
import io
import json
import mimetypes
import re
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image, ImageOps

import destseg.serving
from destseg.data.drawing import colour_map
from destseg.inference.calibration import TOLERANCE
from destseg.serving.app import create_app
from serving.fakes import image, listening, make_predictor

ROOT = Path(destseg.__file__).parent
# What the page is made of: its own files and those of all pages.
PARTS = {
    file.name: file
    for folder in ("serving/page", "pages")
    for file in (ROOT / folder).iterdir()
    if file.suffix in (".html", ".css", ".js")
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; media-src blob:; form-action 'none'; frame-ancestors 'none'; "
    "base-uri 'none'"
)
CHROMIUM_ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
CHROMIUM_ARGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
CHROMIUM_ARGS += [
    "--use-fake-device-for-media-stream",
    "--host-resolver-rules=MAP part.test 127.0.0.1",
]
TOKEN = "s3cret"
CALIBRATION = [0.1, 0.2, 0.3]
PIXEL_THRESHOLD = 0.5
REFUSALS = {
    401: "expected the header Authorization: Bearer TOKEN, got none or another",
    413: "expected a body of at most 1000 bytes, got more; send a smaller image",
    422: "expected a JPEG, PNG, BMP, TIFF or WebP image, got a file that starts with b'no'",
    503: "expected room in the queue, got none: try again",
}


# Images, and a server that inspects them


def part(level=0.9, *, size=(60, 40), box=(10, 8, 20, 12), kind="PNG", **options):
    """A dark image with a box (x, y, width, height) whose red is the level; the bytes."""
    pixels = np.full((size[1], size[0], 3), (10, 40, 60), np.uint8)
    x, y, width, height = box
    pixels[y : y + height, x : x + width, 0] = round(255 * level)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def map_of(content):
    """The map is an image's red in fewer pixels, in levels of 0 to 255."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    red = image.getchannel(0)
    return red, red.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)


def inspected(content, model):
    red, small = map_of(content)
    pixels = np.asarray(red) / 255
    score = float(pixels.max())
    scores = model["calibration"]["scores"]
    regions = []
    if score > PIXEL_THRESHOLD:
        rows, columns = np.nonzero(pixels > PIXEL_THRESHOLD)
        x, y = int(columns.min()), int(rows.min())
        region = {"x": x, "y": y, "width": int(columns.max()) - x + 1, "area": len(rows)}
        regions = [region | {"height": int(rows.max()) - y + 1, "peak": score}]
        regions[0] |= {"peak_x": x, "peak_y": y}
    file = io.BytesIO()
    small.save(file, "PNG")
    return {
        "model": model["name"],
        "path": "path",
        "score": score,
        "p_value": (1 + sum(held + TOLERANCE >= score for held in scores)) / (1 + len(scores)),
        "is_defective": score > model["threshold"],
        "threshold": model["threshold"],
        "pixel_threshold": PIXEL_THRESHOLD,
        "width": red.width,
        "height": red.height,
        "regions": regions,
        "seconds": 0.01,
        "heatmap": base64.b64encode(file.getvalue()).decode(),
    }


def model(name="bottle", scores=CALIBRATION, **changes):
    values = {
        "name": name,
        "default": False,
        "threshold": max(scores) + TOLERANCE,
        "pixel_threshold": PIXEL_THRESHOLD,
        "max_false_alarm_rate": 1 / (1 + len(scores)),
        "guaranteed_false_alarm_rate": 1 / (1 + len(scores)),
        "guarantee_note": None,
        "calibration": {
            "count": len(scores),
            "scores": list(scores),
            "tolerance": TOLERANCE,
        },
    }
    return values | changes


class Server(ThreadingHTTPServer):
    """Serves the page; ``refusals`` are the statuses of the next inspections, 0 for none."""

    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.models = [model(default=True)]
        self.max_bytes = 10**6
        self.token = None
        self.refusals = []
        self.posted = []  # (the query's values, the body)
        self.lock = threading.Lock()
        self.gate = threading.Event()  # inspections wait for it
        self.gate.set()
        self.at_once = self.most_at_once = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"

    @contextlib.contextmanager
    def one_more(self):
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        self.gate.wait(30)
        yield
        with self.lock:
            self.at_once -= 1


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def send(self, status, content, kind, **headers):
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": len(content), **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(content)

    def give(self, values):
        self.send(200, json.dumps(values).encode(), "application/json")

    def refuse(self, status):
        body = {"title": "No", "status": status, "detail": REFUSALS[status]}
        self.send(status, json.dumps(body).encode(), "application/problem+json", Retry_After="0.05")

    def is_known(self):
        token = self.server.token
        return token is None or self.headers["Authorization"] == f"Bearer {token}"

    def do_GET(self):
        path = urlsplit(self.path).path
        file = PARTS.get("page.html" if path == "/" else path.removeprefix("/page/"))
        if path == "/v1/models":
            if not self.is_known():
                return self.refuse(401)
            return self.give(
                {"models": self.server.models, "limits": {"max_bytes": self.server.max_bytes}}
            )
        kind = mimetypes.guess_type(file.name)[0]
        return self.send(
            200,
            file.read_bytes(),
            kind,
            Content_Security_Policy=POLICY,
            Permissions_Policy="camera=(self)",
        )

    def do_POST(self):
        asked = urlsplit(self.path)
        assert asked.path == "/v1/inspect"
        query = {name: values[0] for name, values in parse_qs(asked.query).items()}
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.one_more():
            with self.server.lock:
                self.server.posted.append((query, body))
                status = self.server.refusals.pop(0) if self.server.refusals else 0
            if not self.is_known():
                status = 401
            if status:
                return self.refuse(status)
            used = next(
                each for each in self.server.models if each["name"] == query.get("model", "bottle")
            )
            try:
                result = inspected(body, used)
            except OSError:
                return self.refuse(422)
            return self.give(result)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as opened:
        yield opened


@contextlib.contextmanager
def serving(opened):
    thread = threading.Thread(target=opened.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield opened
    opened.gate.set()
    opened.shutdown()
    opened.server_close()
    thread.join()


# The browser


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, server):
    """Open the page; afterwards the console may have nothing but the refusals of the server."""
    said, asked, contexts = [], [], []

    def open_page(address=None, *, camera=False, **options):
        context = browser.new_context(accept_downloads=True, **options)
        contexts.append(context)
        if camera:
            context.grant_permissions(["camera"])
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address or server.url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    refusal = r"Failed to load resource: (the server responded with a status of|net::ERR_CONN).*"
    assert [text for text in said if not re.fullmatch(refusal, text)] == []
    ours = re.compile(r"http://(127\.0\.0\.1|part\.test):|blob:|data:")
    assert [url for url in asked if not ours.match(url)] == []


def see(page, selector, text=""):
    """Wait until an element that is seen has a text."""
    page.locator(f"{selector}:visible").filter(has_text=text).first.wait_for()


def transfer(page, files):
    return page.evaluate_handle(
        """files => {
          const data = new DataTransfer();
          for (const [name, content] of files) {
            const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
            data.items.add(new File([bytes], name, { type: "image/png" }));
          }
          return data;
        }""",
        [[name, base64.b64encode(content).decode()] for name, content in files.items()],
    )


def drop(page, **files):
    drop_all(page, {f"{name}.png": content for name, content in files.items()})


def drop_all(page, files):
    data = transfer(page, files)
    for kind in ("dragenter", "dragover", "drop"):
        page.dispatch_event("#history", kind, {"dataTransfer": data})


def finished(page, number):
    """Wait until so many images of the list have a verdict or a reason."""
    page.locator("#entries button:not(.running)").nth(number - 1).wait_for(state="attached")


def named(page):
    return page.locator("#entries li:not([hidden]) .name").all_text_contents()


def colour_of(page, x, y):
    """What is seen of the image at a fraction of its width and height."""
    shown = Image.open(io.BytesIO(page.locator("#frame").screenshot())).convert("RGB")
    return np.array(shown.getpixel((int(x * shown.width), int(y * shown.height))), int)


# The files


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere():
    """Else the policy would stop it, or it would need the internet."""
    html = PARTS["page.html"].read_text("utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    for file in PARTS.values():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(
            r"(src|href)=\"(?!page/|data:,)|url\(|@import|[\"'(](https?:)?//", text
        ), file
    parts = set(re.findall(r'"page/([\w.]+)"', html))
    for file in PARTS.values():
        parts |= set(re.findall(r'from "\./([\w.]+)"', file.read_text("utf-8")))
    assert parts | {"page.html"} == set(PARTS)


# An image


@pytest.mark.browser
def test_a_dropped_image_gets_a_verdict_with_its_map_regions_and_p_value(visit, server):
    page = visit()
    see(page, "#empty", "Drop images")
    content = part(0.9)
    drop(page, crack=content)
    see(page, "#verdict-word", "Defective")
    assert page.locator("#verdict-name").text_content() == "crack.png"
    assert not page.locator("#empty").is_visible()
    figures = page.locator("#figures dd").all_text_contents()
    assert figures == [f"{round(0.9 * 255) / 255:.4f}", "0.3001", "0.25"]
    said = page.locator("#meaning").inner_text()
    assert "None of the 3 good parts kept aside from training scored as high." in said
    assert "gets a p-value this low is at most 1 in 4 (25 %)" in said.replace("\xa0", " ")
    assert page.locator("#scale .held").first.get_attribute("d").count("M") == 3
    cells = page.locator("#regions tbody tr").all_inner_texts()
    assert [row.split() for row in cells] == [["1", "10,", "8", "20", "×", "12", "240", "0.9020"]]
    box = page.locator("#boxes .line")
    sides = [float(box.get_attribute(name)) for name in ("x", "y", "width", "height")]
    assert sides == [10, 8, 20, 12]
    assert server.posted == [({"heatmap": "true", "model": "bottle"}, content)]
    assert (
        "crack.png: Defective, score 0.9020, p-value 0.25" in page.locator("#said").text_content()
    )


@pytest.mark.browser
def test_the_real_server_and_its_page_fit_each_other(visit):
    """The others talk to a server of this file; its headers and its JSON might be others."""
    app = create_app({"part": make_predictor}, token=TOKEN)
    with listening(app) as port:
        page = visit(f"http://127.0.0.1:{port}/")
        see(page, "#token", "asks for a token")
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        see(page, "#only-model", "part")
        drop_all(page, {"crack.png": image(230), "bad.png": b"no", "part.png": image(20)})
        finished(page, 3)
        see(page, "#verdict-word", "Defective")
        see(page, "#heat")
        assert page.locator("#figures dd").all_text_contents() == ["0.9020", "0.3001", "0.25"]
        assert page.locator("#boxes .line").count() == 1
        see(page, "#progress-text", "1 defective, 1 good, 1 without a verdict")
        page.keyboard.press("ArrowRight")
        see(page, "#reason", "Expected a JPEG, PNG, BMP, TIFF or WebP image")


@pytest.mark.browser
def test_the_map_has_the_colours_of_our_drawings(visit):
    page = visit()
    ramp = np.zeros((4, 512, 3), np.uint8)
    ramp[..., 0] = np.arange(512) // 2
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "PNG")
    drop(page, ramp=file.getvalue())
    see(page, "#heat")
    drawn = page.locator("#heat").evaluate(
        "canvas => [...canvas.getContext('2d').getImageData(0, 0, 256, 1).data]"
    )
    drawn = np.array(drawn).reshape(256, 4)
    assert (drawn[:, 3] == np.arange(256)).all()  # the image stays as it is where the map is 0
    true = colour_map(np.arange(256, dtype=np.float32)[None] / 255)[0].astype(int)
    assert abs(drawn[128:, :3] - true[128:]).max() < 8  # below, transparency rounds colours


@pytest.mark.browser
def test_the_opacity_goes_by_keyboard_from_the_image_to_the_map(visit):
    page = visit()
    drop(page, crack=part(0.9))
    see(page, "#heat")
    page.locator("#boxes-shown").uncheck()
    page.locator("#opacity").focus()
    page.keyboard.press("Home")
    assert page.locator("#opacity-text").text_content() == "0\xa0%"
    assert abs(colour_of(page, 0.3, 0.35) - [230, 40, 60]).max() <= 2
    page.keyboard.press("End")
    coloured = colour_map(np.array([[0.902]], np.float32))[0, 0].astype(int)
    expected = 0.902 * coloured + 0.098 * np.array([230, 40, 60])
    assert abs(colour_of(page, 0.3, 0.35) - expected).max() <= 8
    assert abs(colour_of(page, 0.8, 0.8) - [10, 40, 60]).max() <= 8
    page.keyboard.press("ArrowLeft")
    assert page.locator("#opacity-text").text_content() == "95\xa0%"


@pytest.mark.browser
def test_boxes_lie_on_the_upright_image(visit):
    """A camera's image lies on its side and says so; sizes are those of the upright one."""
    page = visit()
    rotation = Image.Exif()
    rotation[0x0112] = 6  # turn clockwise to see it
    drop(page, lying=part(1.0, size=(80, 40), kind="JPEG", exif=rotation, quality=100))
    see(page, "#heat")
    frame = page.locator("#frame").bounding_box()
    assert frame["width"] / frame["height"] == pytest.approx(0.5, abs=0.01)
    box = page.locator("#boxes .line").bounding_box()
    middle = [
        (box["x"] + box["width"] / 2 - frame["x"]) / frame["width"],
        (box["y"] + box["height"] / 2 - frame["y"]) / frame["height"],
    ]
    assert middle == pytest.approx([1 - 14 / 40, 20 / 80], abs=0.04)
    page.locator("#boxes-shown").uncheck()
    page.locator("#opacity").fill("0")
    assert abs(colour_of(page, *middle) - [255, 40, 60]).max() < 30
    assert not page.locator("#boxes").is_visible()


@pytest.mark.browser
def test_of_an_image_that_browsers_cannot_show_the_map_is_shown_alone(visit):
    page = visit()
    drop_all(page, {"part.tif": part(0.9, kind="TIFF")})
    see(page, "#verdict-word", "Defective")
    see(page, "#image-note", "cannot show this kind of image; here is its heatmap alone")
    expected = colour_map(np.array([[10 / 255, 0.902]], np.float32))[0].astype(int)
    page.locator("#boxes-shown").uncheck()
    assert abs(colour_of(page, 0.8, 0.8) - expected[0]).max() < 8
    assert abs(colour_of(page, 0.3, 0.35) - expected[1]).max() < 8
    see(page, "#entries img")
    drop(page, after=part(0.1))
    see(page, "#verdict-word", "Good")
    see(page, "#image")
    assert not page.locator("#image-note").is_visible()


@pytest.mark.browser
def test_images_are_pasted_too(visit):
    page = visit()
    data = transfer(page, {"image.png": part(0.2)})
    page.evaluate(
        "data => document.body.dispatchEvent("
        "new ClipboardEvent('paste', { clipboardData: data, bubbles: true }))",
        data,
    )
    see(page, "#verdict-word", "Good")


# What goes wrong


@pytest.mark.browser
def test_a_bad_file_shows_the_reason_and_the_others_go_on(visit, server):
    page = visit()
    drop(page, a=part(0.9), b=b"no image", c=part(0.1))
    finished(page, 3)
    assert named(page) == ["a.png", "b.png", "c.png"]
    see(page, "#progress-text", "3 images inspected: 1 defective, 1 good, 1 without a verdict")
    page.locator("#entries button").nth(1).click()
    see(page, "#verdict-word", "No verdict")
    assert page.locator("#reason").text_content() == f"E{REFUSALS[422][1:]}."
    assert not page.locator("#meaning").is_visible()
    assert not page.locator("#again").is_visible()
    server.refusals = [413]
    drop(page, large=part(0.9))
    see(page, "#reason", "at most 1000 bytes, got more")


@pytest.mark.browser
def test_a_file_above_the_limit_is_not_sent(visit, server):
    server.max_bytes = 100
    page = visit()
    see(page, "#only-model", "bottle")
    drop(page, large=b"x" * 101)
    see(page, "#reason", "Expected a file of at most 100 bytes, got 101")
    assert server.posted == []


@pytest.mark.browser
def test_a_busy_server_is_asked_again(visit, server):
    server.refusals = [503, 503]
    page = visit()
    drop(page, crack=part(0.9))
    see(page, "#verdict-word", "Defective")
    assert len(server.posted) == 3
    server.refusals = [503] * 6
    drop(page, other=part(0.9))
    see(page, "#reason", "Expected room in the queue")
    assert len(server.posted) == 9
    page.locator("#again").click()
    see(page, "#verdict-word", "Defective")
    assert named(page) == ["crack.png", "other.png"]
    assert len(server.posted) == 10


@pytest.mark.browser
def test_a_server_that_is_away_is_told_and_found_again(visit):
    with serving(Server()) as server:
        page = visit(server.url)
        see(page, "#only-model", "bottle")
        port = server.server_address[1]
    drop(page, crack=part(0.9))
    see(page, "#reason", "Expected an answer from the server, got none")
    with serving(Server(port)):
        page.locator("#again").click()
        see(page, "#verdict-word", "Defective")


@pytest.mark.browser
def test_the_token_is_asked_for_once_and_kept(visit, server):
    server.token = TOKEN
    page = visit()
    see(page, "#token", "asks for a token")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    see(page, "#token-text", "refused")
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    see(page, "#only-model", "bottle")
    drop(page, crack=part(0.9))
    see(page, "#verdict-word", "Defective")
    page.reload()
    see(page, "#only-model", "bottle")
    server.token = "another"
    drop(page, a=part(0.9), b=part(0.9), c=part(0.1))
    see(page, "#token", "refused")
    page.locator("#token-field").fill("another")
    page.keyboard.press("Enter")
    finished(page, 3)
    see(page, "#progress-text", "2 defective, 1 good")
    server.token = "third"
    drop(page, d=part(0.9), e=part(0.9), f=part(0.9), g=part(0.9))
    see(page, "#token")
    page.keyboard.press("Escape")
    see(page, "#reason", "Expected the header Authorization")
    assert len(named(page)) < 7  # the rest is not asked for
    assert TOKEN not in page.content()


@pytest.mark.browser
def test_a_hostile_name_is_text(visit, server):
    name = "<img src=x onerror=alert(1)>.png"
    server.models[0]["name"] = server.models[0]["guarantee_note"] = "<b>bottle</b>"
    page = visit()
    drop_all(page, {name: part(0.9)})
    see(page, "#verdict-word", "Defective")
    assert page.locator("#verdict-name").text_content() == name
    assert named(page) == [name]
    assert page.locator("img[src='x'], #threshold-text b, #only-model b").count() == 0
    see(page, "#threshold-text", "<b>bottle</b>")


# Models and words


@pytest.mark.browser
def test_of_several_models_the_chosen_one_is_asked(visit, server):
    server.models = [model("bottle"), model("grid/2 &c", [0.95], default=True)]
    page = visit()
    page.locator("#model option").nth(1).wait_for(state="attached")
    assert page.locator("#model option").all_text_contents() == ["bottle", "grid/2 &c"]
    drop(page, a=part(0.9))
    see(page, "#verdict-word", "Good")
    assert server.posted[-1][0]["model"] == "grid/2 &c"
    see(page, "#p-text", "The one good part kept aside from training scored as high or higher.")
    page.locator("#model").select_option("bottle")
    drop(page, b=part(0.9))
    see(page, "#verdict-word", "Defective")
    assert server.posted[-1][0]["model"] == "bottle"


@pytest.mark.browser
def test_a_model_that_was_loaded_anew_is_read_anew(visit, server):
    page = visit()
    see(page, "#only-model", "bottle")
    server.models = [model(scores=[0.1, 0.95])]
    drop(page, a=part(0.9))
    see(page, "#verdict-word", "Good")
    see(page, "#p-text", "1 of the 2 good parts kept aside from training scored as high or higher.")
    see(page, "#threshold-text", "above 0.9501. That is the highest score of the 2 good parts")


@pytest.mark.browser
def test_the_words_hold_at_the_edges(visit):
    page = visit()

    def told(score, scores, rank=1, **changes):
        count = len(scores)
        used = model(
            scores=sorted(scores), guaranteed_false_alarm_rate=rank / (count + 1), **changes
        )
        used["threshold"] = min(1, used["calibration"]["scores"][-rank] + TOLERANCE)
        result = {
            "score": score,
            "threshold": used["threshold"],
            "is_defective": score > used["threshold"],
            "p_value": (1 + sum(held + TOLERANCE >= score for held in scores)) / (count + 1),
        }
        words = page.evaluate(
            """async ([result, model]) => {
              const words = await import("/page/words.js");
              const explained = words.explains(model, result);
              return [explained, words.pText(result.p_value), words.pSentences(result, model),
                      words.thresholdSentences(model)];
            }""",
            [result, used],
        )
        assert words[0]
        return words[1], *(" ".join(lines).replace("\xa0", " ") for lines in words[2:])

    p, said, _ = told(0.05, CALIBRATION)
    assert p == "1"
    assert "All 3 good parts" in said
    assert "not an unusual score" in said
    assert "chance" not in said
    p, said, meant = told(0.3001, CALIBRATION)  # a tie: at the threshold, not above it
    assert p == "0.5"
    assert "0.3001 is not above the threshold of 0.3001. 1 of the 3" in said
    assert "the highest score of the 3 good parts kept aside from training, and 0.0001" in meant
    assert "at most 2 in 4 (50 %)" in said
    _, said, _ = told(0.30010001, CALIBRATION)
    assert "0.30010001 is above the threshold of 0.30010000." in said
    assert "None of the 3" in said
    many = [n / 2000 for n in range(1999)]
    p, said, meant = told(0.99, many, rank=22, max_false_alarm_rate=0.0115)
    assert p == "0.01"
    assert "19 of the 1,999 good parts" in said
    assert "at most 20 in 2,000 (1 %)" in said
    assert "That is the 22nd highest score of the 1,999 good parts" in meant
    assert "at most 22 in 2,000 (1.1 %)" in meant
    assert "At most 1.15 % was asked for." in meant
    p, said, meant = told(0.5, [0.4])
    assert p == "0.5"
    assert "The one good part kept aside from training scored lower." in said
    assert "That is the score of the one good part" in meant
    _, _, meant = told(0.5, [0.4] * 21, guarantee_note="with 21 calibration images it cannot")
    assert "at most 1 in 22 (about 4.5 %). With 21 calibration images it cannot. " in meant
    assert "asked for" not in meant


# The session


@pytest.mark.browser
def test_many_images_keep_their_order_and_are_gone_through_by_keyboard(visit, server):
    levels = [0.9, 0.1, 0.8, 0.2, 0.7, 0.6]
    page = visit()
    server.gate.clear()  # the first answer waits until a second image is there
    drop(page, **{f"p{n}": part(level) for n, level in enumerate(levels)})
    deadline = time.monotonic() + 20
    while server.at_once < 2 and time.monotonic() < deadline:
        page.wait_for_timeout(20)
    server.gate.set()
    finished(page, 6)
    assert named(page) == [f"p{n}.png" for n in range(6)]
    assert server.most_at_once == 2
    assert page.locator("#history-count").text_content() == "6 images, 4 defective"
    name = page.locator("#verdict-name")
    assert name.text_content() == "p0.png"
    page.keyboard.press("ArrowRight")
    assert name.text_content() == "p1.png"
    see(page, "#verdict-word", "Good")
    page.locator("#entries [aria-current]").focus()
    page.keyboard.press("End")
    assert name.text_content() == "p5.png"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert name.text_content() == "p4.png"
    assert page.evaluate("document.activeElement.querySelector('.name').textContent") == "p4.png"
    page.keyboard.press("Home")
    page.locator("#only-defective").check()
    assert named(page) == ["p0.png", "p2.png", "p4.png", "p5.png"]
    page.locator("#next").click()
    assert name.text_content() == "p2.png"
    page.locator("#previous").click()
    assert name.text_content() == "p0.png"


@pytest.mark.browser
def test_a_long_queue_can_be_stopped(visit, server):
    server.gate.clear()
    page = visit()
    drop(page, **{f"p{n}": part(0.9) for n in range(9)})
    see(page, "#progress-text", "0 of 9 inspected")
    page.locator("#stop").click()
    server.gate.set()
    see(page, "#progress-text", "2 images inspected: 2 defective")
    assert len(server.posted) == 2


@pytest.mark.browser
def test_results_are_saved(visit):
    page = visit()
    drop_all(page, {'=a,"b".png': part(0.9), "bad": b"no", "good.png": part(0.1)})
    finished(page, 3)

    def saved(button):
        with page.expect_download() as download:
            page.locator(button).click()
        return Path(download.value.path()).read_bytes().decode()

    lines = [json.loads(line) for line in saved("#save-lines").splitlines()]
    assert [line["path"] for line in lines] == ['=a,"b".png', "bad", "good.png"]
    assert [line.get("is_defective") for line in lines] == [True, None, False]
    assert lines[0]["score"] == round(0.9 * 255) / 255
    assert lines[0]["regions"][0]["area"] == 240
    assert "heatmap" not in lines[0]
    assert lines[1]["error"] == REFUSALS[422]
    rows = list(csv.DictReader(io.StringIO(saved("#save-table"), newline="")))
    assert [row["path"] for row in rows] == ['\'=a,"b".png', "bad", "good.png"]
    assert [row["regions"] for row in rows] == ["1", "", "0"]
    assert [row["p_value"] for row in rows] == ["0.25", "", "0.75"]


@pytest.mark.browser
def test_memory_is_bounded_and_what_was_let_go_is_told(visit):
    page = visit()
    page.evaluate(
        "import('/page/session.js').then(({ KEPT }) => Object.assign(KEPT, "
        "{ images: 2, entries: 4, lines: 5 }))"
    )
    drop(page, **{f"p{n}": part(0.9) for n in range(7)})
    see(page, "#progress-text", "7 images inspected")
    kept = named(page)
    assert len(kept) == 4
    assert kept[0] == "p0.png"  # is shown
    assert kept[-1] == "p6.png"
    see(page, "#history-note", "The last 4 are listed; what is saved has the last 5.")
    page.locator("#entries button").nth(1).click()
    see(page, "#image-note", "were let go to save memory")
    see(page, "#verdict-word", "Defective")
    assert page.locator("#image").evaluate("image => image.naturalWidth") == 60
    assert not page.locator("#heat").is_visible()
    page.locator("#entries button").nth(3).click()
    see(page, "#heat")
    with page.expect_download() as download:
        page.locator("#save-lines").click()
    assert len(Path(download.value.path()).read_text().splitlines()) == 5


@pytest.mark.browser
def test_clearing_ends_what_is_under_way(visit, server):
    page = visit()
    drop(page, a=part(0.9))
    see(page, "#verdict-word", "Defective")
    server.gate.clear()
    drop(page, b=part(0.9), c=part(0.9), d=part(0.9))
    see(page, "#verdict-word", "Inspecting")
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator("#clear").click()
    server.gate.set()
    see(page, "#empty")
    assert not page.locator("#history").is_visible()
    drop(page, e=part(0.1))
    see(page, "#verdict-word", "Good")
    assert named(page) == ["e.png"]


# Keyboard, camera, looks


@pytest.mark.browser
def test_all_of_it_works_with_the_keyboard_and_there_is_no_trap(visit, tmp_path):
    (tmp_path / "crack.png").write_bytes(part(0.9))
    page = visit()
    see(page, "#only-model", "bottle")

    def focused():
        return page.evaluate("document.activeElement.id || document.activeElement.tagName")

    def tab_to(goal):
        for _ in range(20):
            page.keyboard.press("Tab")
            if focused() == goal:
                return
        raise AssertionError(f"Tab never came to {goal}")

    with page.expect_file_chooser() as chooser:
        tab_to("choose")  # takes long enough for the browser to be told to hand the chooser over
        page.keyboard.press("Enter")
    chooser.value.set_files(tmp_path / "crack.png")
    see(page, "#verdict-word", "Defective")
    stops = []
    for _ in range(16):
        page.keyboard.press("Tab")
        stops.append(focused())
        style = "getComputedStyle(document.activeElement).outlineStyle"
        assert stops[-1] == "BODY" or page.evaluate(style) != "none", stops
    order = ["camera-open", "opacity", "boxes-shown", "previous", "next", "only-defective"]
    order += ["save-lines", "save-table", "clear", "BUTTON"]
    assert stops[: len(order)] == order
    assert "help-open" in stops[len(order) :]  # and round again
    tab_to("help-open")
    page.keyboard.press("Enter")
    see(page, "#help", "previous, next image")
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()
    assert focused() == "help-open"


@pytest.mark.browser
def test_space_takes_an_image_with_the_camera(visit, server):
    page = visit(camera=True)
    page.locator("#camera-open").click()
    page.locator("#camera-take:not([disabled])").wait_for()
    page.locator("#empty").click()  # the focus is on nothing
    page.keyboard.press("Space")
    see(page, "#verdict-name", "camera-1.png")
    finished(page, 1)
    page.locator("#camera-take").focus()
    page.keyboard.press("Space")
    see(page, "#verdict-name", "camera-2.png")
    finished(page, 2)
    assert len(server.posted) == 2
    still = Image.open(io.BytesIO(server.posted[0][1]))
    assert still.format == "PNG"
    assert min(still.size) >= 100
    page.keyboard.press("Escape")
    assert not page.locator("#camera").is_visible()
    assert page.locator("#camera-video").evaluate("video => video.srcObject") is None
    page.keyboard.press("Space")  # on the button that opens it
    page.locator("#camera-take:not([disabled])").wait_for()


@pytest.mark.browser
def test_why_there_is_no_camera_is_told(visit, server):
    page = visit()  # headless, nobody allows it
    page.locator("#camera-open").click()
    see(page, "#camera-error", "not allowed")
    assert page.locator("#camera-take").is_disabled()
    page = visit(server.url.replace("127.0.0.1", "part.test"))
    page.locator("#camera-open").click()
    see(page, "#camera-error", "https://")
    page.locator("#camera-close").click()
    assert not page.locator("#camera").is_visible()


@pytest.mark.browser
def test_it_is_light_and_dark_and_fits_a_narrow_screen(visit):
    grounds = {}
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme, viewport={"width": 360, "height": 640})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        drop(page, crack=part(0.9), **{"long" * 20: part(0.1)}, bad=b"no")
        finished(page, 3)
        for _ in range(3):
            page.keyboard.press("ArrowRight")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds[scheme] = sum(map(int, re.findall(r"\d+", ground)[:3]))
    assert grounds["dark"] < 150 < 600 < grounds["light"]
