"""From a request to its answers: limits, deadline, queue."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from destseg.errors import DestsegError, SettingsError
from destseg.inference.predictor import ImageLike
from destseg.serving.batching import Answer, DeadlinePassed, QueueFull
from destseg.serving.media import type_of
from destseg.serving.models import Model, Models
from destseg.serving.problems import (
    Problem,
    broken,
    compressed,
    hung_up,
    no_room,
    too_large,
    too_late,
)
from destseg.serving.telemetry import Telemetry

LOG = logging.getLogger(__name__)
DEADLINE_HEADER = "X-Deadline-Ms"


@dataclass(frozen=True)
class Limits:
    """How much a server takes.

    Attributes:
        max_bytes: of a request's body.
        queue: images of one model that may be accepted and not yet answered.
        deadline: seconds from a request's arrival, reading included, to its answer.
    """

    max_bytes: int = 32 * 2**20
    queue: int = 64
    deadline: float = 10.0

    def __post_init__(self) -> None:
        for flag, value in (("--max-bytes", self.max_bytes), ("--queue", self.queue)):
            if value < 1:
                raise SettingsError(f"{flag}: expected at least 1, got {value}")
        if not self.deadline > 0:
            raise SettingsError(f"--deadline: expected more than 0 seconds, got {self.deadline}")


@dataclass(frozen=True)
class Service:
    """What every route needs.

    Attributes:
        models: the served models.
        limits: how much is taken.
        telemetry: what counts.
    """

    models: Models
    limits: Limits
    telemetry: Telemetry

    def model(self, name: str | None) -> Model:
        """Return a model by its name, the default for ``None``.

        Raises:
            Problem: 404.
        """
        model = self.models.get(name)
        if model is None:
            served = ", ".join(self.models.names())
            raise Problem(404, f"expected one of the served models ({served}), got {name!r}")
        return model


class Visit:
    """One request for results: its clock, its model, its outcome in the metrics.

    Args:
        service: what every route needs.
        request: the request.
        model: who answers.

    Raises:
        Problem: 422 for a deadline that is no number.
    """

    def __init__(self, service: Service, request: Request, model: Model) -> None:
        self.began = time.monotonic()
        self.model = model
        self._service = service
        self._request = request
        self.seconds = service.limits.deadline
        asked = request.headers.get(DEADLINE_HEADER)
        if asked is not None:
            try:
                milliseconds = float(asked)
            except ValueError:
                milliseconds = math.nan
            if math.isnan(milliseconds):
                raise Problem(422, f"{DEADLINE_HEADER}: expected milliseconds, got {asked!r}")
            self.seconds = min(self.seconds, milliseconds / 1000)
            if self.seconds <= 0:  # has passed already
                raise too_late(0)

    @contextmanager
    def room(self, images: int = 1) -> Iterator[None]:
        """Keep room in the model's queue, or raise the problem (503) that there is none."""
        try:
            with self.model.batcher.room(images):
                yield
        except QueueFull:
            raise no_room() from None

    async def body(self) -> bytes:
        """Read the whole body, within the deadline.

        Raises:
            Problem: 413 above the limit, 415 when it is compressed, 504 when it takes too long, 400
                when it ends too soon.
        """
        try:
            async with asyncio.timeout(self._left()):
                return b"".join([part async for part in self._bounded()])
        except TimeoutError:
            raise too_late(self.seconds) from None
        except ClientDisconnect:
            raise hung_up() from None

    async def upload(self) -> tuple[str, bytes]:
        """Read the one image of a request: raw, or the multipart field ``image``.

        Returns:
            Its name and its bytes.

        Raises:
            Problem: 413, 415, 422 or 504.
        """
        body = await self.body()
        if type_of(self._request.headers.get("Content-Type", "")) != "multipart/form-data":
            if not body:
                raise Problem(
                    422, "expected the bytes of an image or a form with the field image, got none"
                )
            return "image", body
        return await _image_field(self._request, body)

    async def inspect(self, images: Sequence[ImageLike]) -> list[Answer]:
        """Return the answers to images for which there is room, in order.

        Raises:
            Problem: 500, 503 or 504, and 400 where the caller has hung up.
        """
        futures = self.model.batcher.submit(images, self.began + self.seconds)
        answers = asyncio.gather(*map(asyncio.wrap_future, futures))
        # Else asyncio logs what came after the deadline as an exception that nobody asked for.
        answers.add_done_callback(lambda done: done.cancelled() or done.exception())
        gone = asyncio.create_task(self._hung_up())
        try:
            either: set[asyncio.Future[Any]] = {answers, gone}
            await asyncio.wait(either, timeout=self._left(), return_when=asyncio.FIRST_COMPLETED)
            if answers.done():
                return list(answers.result())
            raise hung_up() if gone.done() else too_late(self.seconds)
        except DeadlinePassed:
            raise too_late(self.seconds) from None
        except DestsegError as error:
            LOG.warning("%s: %s", self.model.name, error)
            raise broken(error) from error
        finally:
            gone.cancel()
            answers.cancel()  # whose turn has not come need not be inspected any more

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Tell the metrics how what is inside ended; what raises no problem is a fault of ours."""
        status = 500
        try:
            yield
            status = 200
        except Problem as problem:
            status = problem.status
            raise
        finally:
            self._service.telemetry.request(self.model.name, status, self.elapsed)

    @property
    def elapsed(self) -> float:
        """Seconds since the request arrived."""
        return time.monotonic() - self.began

    async def _hung_up(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass

    def _left(self) -> float:
        return max(0.0, self.seconds - self.elapsed)

    async def _bounded(self) -> AsyncIterator[bytes]:
        limit = self._service.limits.max_bytes
        declared = self._request.headers.get("Content-Length", "0")
        # What is too long is neither read nor, for the answer's sake, hung up on: a client that is
        # still sending would see a broken connection instead.
        if declared.isdecimal() and (len(declared) > 19 or int(declared) > limit):
            raise too_large(limit)
        encoding = self._request.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise compressed(encoding)
        read = 0
        async for part in self._request.stream():
            read += len(part)
            if read > limit:
                raise too_large(limit)
            yield part


async def _image_field(request: Request, body: bytes) -> tuple[str, bytes]:
    async def parts() -> AsyncGenerator[bytes]:
        yield body

    parser = MultiPartParser(request.headers, parts(), max_files=1, max_fields=16)
    parser.spool_max_size = len(body) + 1  # it is in memory already: never onto the disk
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError, KeyError, UnicodeError) as error:
        # The parser's own error has no message; Starlette wraps it in its newer versions only.
        told = str(error) if isinstance(error, FormParserError) else None
        reason = told or getattr(error, "message", "no boundary, or another charset than UTF-8")
        raise Problem(422, f"expected a multipart form, got: {reason}") from None
    try:
        image = form.get("image")
        if not isinstance(image, UploadFile):
            got = f"the fields: {', '.join(form.keys()) or 'none'}"
            if image is not None:
                got = "text: give the field a filename"
            raise Problem(422, f"expected a form with a file in the field image, got {got}")
        # A form may name a charset that makes text of what no answer can say.
        name = (image.filename or "image").encode(errors="replace").decode()
        return name, await image.read()
    finally:
        await form.close()
