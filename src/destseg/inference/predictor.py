"""The one way through: file, pixels, backend, map, score, decision."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from destseg.data.images import padded
from destseg.data.paths import AnyPath, expanded
from destseg.data.prefetch import batches, in_order
from destseg.errors import BatchError, BundleError, SettingsError
from destseg.inference.backends import Backend, Runtime, choose, open_backend
from destseg.inference.bundle import Bundle, load_bundle
from destseg.inference.calibration import Calibration
from destseg.inference.exports import bundle_for
from destseg.inference.reading import NO_PIXELS, Pixels, Reading
from destseg.inference.result import Failure, Result, find_regions
from destseg.inference.scoring import image_score
from destseg.inference.sources import (
    ArrayLike,
    BinaryFile,
    ImageLike,
    Images,
    named,
    several,
)
from destseg.inference.tiled import tiled_map
from destseg.validation import at_least, problem, scalar

__all__ = ["ImageLike", "Images", "Measurement", "Predictor", "load"]


@dataclass(frozen=True, eq=False)
class Measurement:
    """An image's map and score, before any decision.

    Attributes:
        path: the file's path as it was given, or a number for an image without a file.
        score: in [0, 1].
        anomaly_map: float32 in [0, 1], of the size that the model sees the image at, without what
            is added to it, or, from tiles, of the image's; 0 outside the region of interest.
        height, width: of the image in pixels.
    """

    path: str
    score: float
    anomaly_map: NDArray[np.float32]
    height: int
    width: int


Mapped: TypeAlias = tuple[Pixels, NDArray[np.float32]]
"""An image, whose pixels are gone, and its map."""


class Predictor:
    """Inspects images with a trained model.

    Thread safety: one may be used from any number of threads at once, and each gets what it would
    get alone; so does a process that is forked.  An iterator of ``stream`` or ``measure`` belongs
    to one thread.  How many calls are computed side by side is the runtime's to choose.

    A ``with`` block closes it at its end.  One that ``load`` or ``train`` gave can be pickled: the
    other process opens the same model with the same runtime, or refuses.

    Args:
        bundle: the trained model.
        backend: what runs it.
        runtime: what the backend was opened with; ``None`` if it can only be handed in.
        batch_size: images or tiles that go through the networks together.

    Raises:
        BundleError: if the bundle's region of interest is missing or changed.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        *,
        runtime: Runtime | None = None,
        batch_size: int = 8,
    ) -> None:
        if wrong := problem(batch_size, int, at_least(1)):
            raise SettingsError(f"batch_size (--batch-size): {wrong}")
        self.bundle = bundle
        self.batch_size = batch_size
        self._runtime = runtime
        self._backend = backend
        self._roi = bundle.roi()
        self._inspected: NDArray[np.bool_] | None = None
        self._read = Reading(bundle.settings.data, bundle.noise)

    @property
    def backend_name(self) -> str:
        """What runs it: ``torch``, ``onnx``, ...; ``custom`` for what was handed in."""
        return "custom" if self._runtime is None else self._runtime.backend

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights that run: the model's, or of an INT8 form those of the form."""
        calibration = self.bundle.calibration
        return self.bundle.weights_sha256 if calibration is None else calibration.weights_sha256

    def close(self) -> None:
        """Let go of the model; calls that run are finished, and later ones refused."""
        self._backend = self._closed

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._runtime is None:
            raise TypeError(
                "expected a predictor of destseg.load to pickle, got one whose backend was handed "
                "in: nothing can open it again"
            )
        bundle = replace(self.bundle, folder=self.bundle.folder.absolute())
        cache = self._runtime.cache
        runtime = replace(self._runtime, cache=cache and expanded(cache).absolute())
        return _reopened, (bundle, runtime, self.batch_size)

    def _closed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:  # noqa: ARG002
        raise BundleError(
            f"{self.bundle.folder}: expected an open predictor, got a closed one. Load it again."
        )

    @property
    def calibration(self) -> Calibration:
        """Calibration scores and thresholds."""
        assert self.bundle.calibration is not None, "load_bundle and train always give one"
        return self.bundle.calibration

    @overload
    def predict(self, images: bytes | bytearray | memoryview | Image.Image) -> Result: ...
    @overload
    def predict(  # type: ignore[overload-overlap]  # what is iterable, but one image
        self, images: str | os.PathLike[str] | ArrayLike | BinaryFile
    ) -> Result | Any: ...
    @overload
    def predict(self, images: Iterable[ImageLike]) -> list[Result]: ...
    def predict(self, images: Images) -> Result | list[Result]:
        """Return how anomalous images are, where, and whether they are defective.

        Args:
            images: one image: a path (~ is the home folder), the bytes of an image file, a file
                open for bytes, a PIL image, or an array or a tensor [h, w] grey or [h, w, 3] RGB,
                uint8 or uint16, of any size.  Or many: a folder or a list (.txt, .csv) as
                ``destseg predict`` takes it, any iterable of images, or an array or a tensor
                [n, h, w, 3].  Channels come last.

        Returns:
            Of one image its result, of many a list in their order.  A type checker cannot tell
            a path of many from one: there ``stream`` helps.

        Raises:
            ImageError: if the one image cannot be read.
            BatchError: if some of several cannot; its ``results`` has all the others.
            DataError: if a folder or a list has no images.
            BundleError: if the predictor was closed.
            Exception: whatever an iterator raises; ``stream`` gives the results before it.
        """
        if (many := several(images)) is None:
            (only,) = self.stream([images])  # type: ignore[list-item]  # no iterable of images
            if isinstance(only, Failure):
                raise only.error
            return only
        answers = list(self.stream(many))
        results = [answer for answer in answers if isinstance(answer, Result)]
        if len(results) < len(answers):
            raise BatchError(
                [answer if isinstance(answer, Result) else None for answer in answers],
                [answer.error for answer in answers if isinstance(answer, Failure)],
            )
        return results

    def stream(self, images: Images) -> Iterator[Result | Failure]:
        """Yield a result or a failure for each image, in order, in bounded memory.

        Images are read ahead, so an answer comes up to 4 * ``batch_size`` - 1 images later: of a
        camera that is slower than the model usually 2 * ``batch_size``.  With a camera load the
        model with ``batch_size=1``, or, if an answer must not wait for the next image, call
        ``predict`` for each.

        Args:
            images: as in ``predict``, one or many; read as they are needed.  What an iterator
                raises is raised behind the answers to all images before it.

        Raises:
            DataError: if a folder or a list has no images.
            BundleError: if the predictor was closed.
        """
        many = several(images)
        given = [images] if many is None else many
        with contextlib.closing(self._mapped(given)) as mapped:  # type: ignore[arg-type]
            if _is_one(given) or self.bundle.settings.data.tile:
                yield from map(self.decide, mapped)
                return
            # The regions of one batch are found while the next is in the networks.
            deciding = in_order(self.decide, mapped, threads=1, ahead=self.batch_size)
            with contextlib.closing(deciding) as decided:
                yield from decided

    def measure(self, images: Images) -> Iterator[Measurement | Failure]:
        """Yield map and score of each image, in order, without a decision.

        Tiles are cut from one image at a time, which nothing holds any longer when its map is
        scored: of a large one there is room for one copy.

        Args:
            images: as in ``stream``.
        """
        many = several(images)
        given = [images] if many is None else many
        with contextlib.closing(self._mapped(given)) as mapped:  # type: ignore[arg-type]
            yield from map(self._scored, mapped)

    def _mapped(self, images: Iterable[ImageLike]) -> Generator[Mapped | Failure]:
        """Yield each image with its map."""
        given = named(images, bit_depth=self.bundle.settings.data.bit_depth)
        if self.bundle.settings.data.tile:
            yield from map(self._map_tiles, map(self._read, given))
            return
        if _is_one(images):
            reading = (self._read(each) for each in given)
        else:
            reading = in_order(self._read, given, threads=2, ahead=2 * self.batch_size)
        with contextlib.closing(reading) as read:
            for batch in batches(read, self.batch_size):
                yield from self._map_together(batch)

    def read(self, image: ImageLike) -> Pixels | Failure:
        """Return an image as the model sees it: the first of three steps, for who does them apart.

        ``stream`` does all three for who has many images at once.
        """
        (given,) = named([image], bit_depth=self.bundle.settings.data.bit_depth)
        return self._read(given)

    def map(self, batch: Sequence[Pixels | Failure]) -> list[Mapped | Failure]:
        """Return the maps of images that were read: the second step, in the networks together."""
        if self.bundle.settings.data.tile:
            return list(map(self._map_tiles, batch))
        return self._map_together(batch)

    def decide(self, mapped: Mapped | Failure) -> Result | Failure:
        """Return what a map says of its image: the third step."""
        measured = self._scored(mapped)
        if isinstance(measured, Failure):
            return measured
        calibration = self.calibration
        result = Result(
            path=measured.path,
            score=measured.score,
            p_value=calibration.p_value(measured.score),
            is_defective=calibration.is_defective(measured.score),
            threshold=calibration.threshold,
            pixel_threshold=calibration.pixel_threshold,
            anomaly_map=measured.anomaly_map,
            height=measured.height,
            width=measured.width,
            regions=(),
            bit_depth=self.bundle.settings.data.bit_depth,
        )
        regions = find_regions(result.heatmap, calibration.pixel_threshold)
        return replace(result, regions=regions)

    def _map_together(self, batch: Sequence[Pixels | Failure]) -> list[Mapped | Failure]:
        readable = [item for item in batch if not isinstance(item, Failure)]
        maps = iter(())
        if readable:
            size = self.bundle.settings.data.size
            seen = np.stack([padded(item.pixels, size) for item in readable])
            maps = iter(self._backend(seen))
        return [
            item if isinstance(item, Failure) else self._with_map(item, next(maps))
            for item in batch
        ]

    def _with_map(self, item: Pixels, anomaly_map: NDArray[np.float32]) -> Mapped:
        height, width = item.pixels.shape[:2]
        own = np.array(anomaly_map[:height, :width], dtype=np.float32)
        self._require_finite(item.path, own)
        return replace(item, pixels=NO_PIXELS), own

    def _map_tiles(self, item: Pixels | Failure) -> Mapped | Failure:
        if isinstance(item, Failure):
            return item
        data = self.bundle.settings.data

        def run(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
            maps = self._backend(tiles)
            self._require_finite(item.path, maps)
            return maps

        anomaly_map = tiled_map(
            item.pixels,
            run,
            tile=data.size[0],
            overlap=data.tile_overlap,
            batch_size=self.batch_size,
            inspected=self.inspected((item.pixels.shape[0], item.pixels.shape[1])),
        )
        return replace(item, pixels=NO_PIXELS), anomaly_map

    def inspected(self, size: tuple[int, int]) -> NDArray[np.bool_] | None:
        """Return which pixels of a map of (height, width) are inspected, bool [height, width].

        It is shared, so it cannot be written to.  Without a region of interest that is ``None``:
        all of them.
        """
        if self._roi is None:
            return None
        held = self._inspected
        if held is None or held.shape != tuple(size):
            held = self._roi.at(size).view()
            held.flags.writeable = False
            # The last one is kept: images of a line are of one size.  Of threads with images
            # of several sizes each uses what it has in hand, not what is kept.
            self._inspected = held
        return held

    def _require_finite(self, path: str, maps: NDArray[np.float32]) -> None:
        if not np.isfinite(maps).all():
            # NaN is above no threshold, so a broken model would pass every part.
            raise BundleError(
                f"{path}: expected an anomaly map of finite numbers, got others: the model in "
                f"{self.bundle.folder} or what runs it is broken. Train anew or use another device."
            )

    def _scored(self, mapped: Mapped | Failure) -> Measurement | Failure:
        if isinstance(mapped, Failure):
            return mapped
        item, anomaly_map = mapped
        inspected = self.inspected((anomaly_map.shape[0], anomaly_map.shape[1]))
        pixels = None
        if inspected is not None:
            anomaly_map *= inspected
            pixels = int(np.count_nonzero(inspected))
        fraction = self.bundle.settings.decision.score_fraction
        return Measurement(
            path=item.path,
            score=image_score(anomaly_map, fraction, pixels),
            anomaly_map=anomaly_map,
            height=item.height,
            width=item.width,
        )


def _is_one(images: Iterable[object]) -> bool:
    """Return whether there is one image, which is done before a thread has begun."""
    return isinstance(images, Sized) and len(images) == 1


def load(
    bundle: AnyPath,
    *,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    cache: AnyPath | None = None,
    batch_size: int = 8,
) -> Predictor:
    """Return a predictor for a trained model on disk.

    Thread safety: it may be called in several threads at once; see also ``Predictor``.

    Args:
        bundle: the folder that training wrote.
        backend: ``torch``, ``onnx``, ``openvino``, ``onnx-int8``, ``openvino-int8``, or ``auto``:
            OpenVINO or ONNX Runtime if the bundle was exported and they are installed, else
            PyTorch; the scores are the same.
        device: auto, cpu, cuda, mps, or a device of OpenVINO's.
        threads: CPU threads; ``None`` leaves the number to the runtime.
        cache: folder for what OpenVINO compiles; ``None`` keeps nothing.
        batch_size: images or tiles that go through the networks together.

    Raises:
        BundleError: if the bundle is missing, changed, incomplete or of another format.
        MissingExtraError: if nothing is installed that can run it.
        SettingsError: if there is no such backend or device.
    """
    kept = None if cache is None else expanded(cache)
    runtime = Runtime(backend, device, scalar(threads), kept)
    loaded = load_bundle(expanded(bundle))
    runtime = choose(loaded, runtime)
    loaded = bundle_for(loaded, runtime.backend)
    opened = open_backend(loaded, runtime)
    return Predictor(loaded, opened, runtime=runtime, batch_size=scalar(batch_size))


def _reopened(bundle: Bundle, runtime: Runtime, batch_size: int) -> Predictor:
    """Return the predictor that was pickled, or refuse if its model is no longer there."""
    backend = open_backend(bundle, runtime)
    predictor = Predictor(bundle, backend, runtime=runtime, batch_size=batch_size)
    there = bundle_for(bundle, runtime.backend).calibration
    if there is not None and there.weights_sha256 != predictor.weights_sha256:
        raise BundleError(
            f"{bundle.folder}: expected the {runtime.backend} model that was pickled, got another. "
            "Load the bundle anew."
        )
    return predictor
