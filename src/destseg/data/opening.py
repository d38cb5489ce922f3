"""Opening an image file, and one kind of error for all that can be wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from destseg.data.decoding import EXPECTED
from destseg.data.faults import is_ours
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
def image_errors(path: str | Path) -> Iterator[None]:
    """Turn whatever decoders raise into an ``ImageError``; our own mistakes stay as they are."""
    try:
        yield
    except ImageError:
        raise
    except PermissionError:
        reason = f"{EXPECTED}, got a file that may not be read; change its permissions"
        raise ImageError(path, reason) from None
    except MemoryError as error:
        reason = "expected memory for its pixels, got none; read fewer at a time, or smaller ones"
        raise ImageError(path, reason) from error
    except Exception as error:
        # Decoders raise nearly anything for damaged files, and one file must not stop a batch.
        if is_ours(error):
            raise
        got = f"a damaged one ({error}); save or copy it again, or remove it"
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not a decoder's
            got = f"a file that cannot be read ({error})"
        raise ImageError(path, f"{EXPECTED}, got {got}") from error


def _not_a_file(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    if path.exists():
        return "something that is no regular file"
    return "a link to nothing" if path.is_symlink() else "nothing there"
