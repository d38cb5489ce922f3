"""Opening an image file, and one kind of error for all that can be wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from destseg.data.decoding import EXPECTED
from destseg.errors import ImageError


@contextmanager
def open_image(path: str | Path) -> Iterator[IO[bytes]]:
    """Open an image file; whatever its reader raises becomes an ``ImageError``.

    Raises:
        ImageError: also if the file is missing, or may not be read.
    """
    path = Path(path)
    with image_errors(path):
        if not path.is_file():
            raise ImageError(path, f"{EXPECTED}, got {_not_a_file(path)}; check the path")
        with path.open("rb") as file:
            yield file


@contextmanager
def image_errors(path: Path) -> Iterator[None]:
    """Turn whatever decoders raise into an ``ImageError``."""
    try:
        yield
    except ImageError:
        raise
    except PermissionError:
        reason = f"{EXPECTED}, got a file that may not be read; change its permissions"
        raise ImageError(path, reason) from None
    except Exception as error:
        # Decoders raise nearly anything for damaged files, and one file must not stop a batch.
        reason = f"{EXPECTED}, got a damaged one ({error}); save or copy it again, or remove it"
        raise ImageError(path, reason) from error


def _not_a_file(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    if path.exists():
        return "something that is no regular file"
    return "a link to nothing" if path.is_symlink() else "nothing there"
