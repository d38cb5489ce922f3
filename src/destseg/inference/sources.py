"""What may be given as images, one or many, and what each is called in results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from destseg.config import DataSettings
from destseg.data.images import as_image, decode_image, read_image
from destseg.data.lists import LIST_SUFFIXES
from destseg.data.paths import require_given
from destseg.data.sources import source_images
from destseg.errors import ImageError


@runtime_checkable
class BinaryFile(Protocol):
    """A file that is open for reading bytes."""

    def read(self) -> bytes:
        """Return what is left of it."""
        ...


@runtime_checkable
class TensorLike(Protocol):
    """A tensor of PyTorch's, which is not imported for it."""

    @property
    def ndim(self) -> int:
        """Number of its dimensions."""
        ...

    def detach(self) -> Any:
        """Return it without its history."""
        ...


ArrayLike: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16] | TensorLike
ImageLike: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile | Image.Image | ArrayLike
)
"""One image: a path, the bytes of a file, an open file, a PIL image, or an array or a tensor
[h, w] grey or [h, w, 3] RGB, uint8 or uint16."""

Images: TypeAlias = ImageLike | Iterable[ImageLike]
"""One image or many: a folder, a list file, any iterable, or an array or a tensor [n, h, w, 3]."""

Content: TypeAlias = str | bytes | Image.Image | NDArray[Any]
"""What an image is read from, in the few forms that are left."""


def several(images: Images) -> Iterable[ImageLike] | None:
    """Return the images that something stands for; ``None`` where it is one image itself.

    Raises:
        DataError: if a folder or a list has no images, or a path is empty, or a tensor cannot be
            copied.
    """
    # In this order, as to ask for a tensor or an open file takes longer than all else here.
    if isinstance(images, list | tuple):
        return images
    if isinstance(images, str | os.PathLike):
        require_given(images)
        path = Path(_expanded(images))
        many = path.is_dir() or path.suffix.lower() in LIST_SUFFIXES
        return source_images(path) if many else None
    if isinstance(images, bytes | bytearray | memoryview | Image.Image):
        return None
    if isinstance(images, np.ndarray | TensorLike):
        return list(_array(images, "images")) if images.ndim == 4 else None
    if isinstance(images, BinaryFile | Mapping):  # the latter is refused: keys or values, who knows
        return None
    return images if isinstance(images, Iterable) else None


def named(
    images: Iterable[ImageLike], *, bit_depth: int = DataSettings.bit_depth
) -> Iterator[tuple[str, Content | ImageError]]:
    """Yield each image's path, or a number without one, and what to read it from.

    Open files are read here, when their turn comes: whoever opened them may close them after it.
    And what an iterator gives is taken over here: it may fill the same array again, or turn the
    same PIL image to its next page, while this one still waits to be inspected.
    """
    lasting = isinstance(images, list | tuple)
    for number, image in enumerate(images):
        path = path_of(image) or f"image {number}"
        try:
            content = _content(image, path)
            yield path, content if lasting else _own(content, bit_depth)
        except ImageError as error:
            yield path, error


def path_of(image: ImageLike) -> str | None:
    """Return the path of an image as it was given, ~ expanded; ``None`` where there is none."""
    if isinstance(image, str | os.PathLike):
        return _expanded(image)
    if isinstance(image, bytes | Image.Image | np.ndarray) or not isinstance(image, BinaryFile):
        return None
    name = getattr(image, "name", None)
    return _expanded(name) if isinstance(name, str | os.PathLike) else None


def read(image: Content, path: str, *, max_pixels: int, bit_depth: int) -> NDArray[np.uint8]:
    """Return an image as uint8 RGB [h, w, 3]; arguments and errors as of ``read_image``."""
    if isinstance(image, str):
        return read_image(image, max_pixels=max_pixels, bit_depth=bit_depth)
    if isinstance(image, bytes):
        return decode_image(image, path, max_pixels=max_pixels, bit_depth=bit_depth)
    return as_image(image, bit_depth=bit_depth)


def _content(image: ImageLike, path: str) -> Content:
    if isinstance(image, str | os.PathLike):
        return _expanded(image)
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if isinstance(image, bytes | Image.Image | np.ndarray):
        return image
    if isinstance(image, TensorLike):
        return _array(image, path)
    return _file_content(image, path) if isinstance(image, BinaryFile) else image


def _own(content: Content, bit_depth: int) -> Content:
    """Return content that nobody else can change."""
    if isinstance(content, Image.Image):  # a copy of PIL's would lie on its side: it has no EXIF
        content = as_image(content, bit_depth=bit_depth)
    return content.copy() if isinstance(content, np.ndarray) else content


def _file_content(file: BinaryFile, path: str) -> bytes:
    try:
        content = file.read()
    except (OSError, ValueError) as error:  # the latter of closed files, and of text that is none
        raise ImageError(
            path, f"expected an open file, got one that cannot be read: {error}"
        ) from (error)
    if not isinstance(content, bytes):
        raise ImageError(path, "expected a file opened for bytes, got text; open it with 'rb'")
    return content


def _array(tensor: ArrayLike, path: str) -> NDArray[Any]:
    if isinstance(tensor, np.ndarray):
        return tensor
    try:
        return np.asarray(tensor.detach().cpu().numpy())
    except (AttributeError, TypeError, RuntimeError) as error:
        expected = "expected a uint8 tensor [h, w, 3] or [n, h, w, 3]"
        raise ImageError(path, f"{expected}, got one that is no array: {error}") from error


def _expanded(path: str | os.PathLike[str]) -> str:
    """Return a path as it was given, but for a ~ that names nothing that is there."""
    text = os.fspath(path)
    if text.startswith("~") and not Path(text).exists():
        return os.path.expanduser(text)  # noqa: PTH111 - as given, but for that
    return text
