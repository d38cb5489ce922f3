"""Stored images, as files or as rows of Parquet: found and planned once, read by the workers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow
import pyarrow.parquet
import pyarrow.types

from destseg.batch_inspection.partitions import Piece, partition_size, plan_files, plan_rows
from destseg.batch_inspection.storage import (
    Storage,
    is_folder,
    is_uri,
    join,
    list_files,
    list_paths,
)
from destseg.data.decoding import EXPECTED
from destseg.data.folders import suffixes
from destseg.data.kinds import is_image, name_says
from destseg.data.lists import LIST_SUFFIXES, read_list, some
from destseg.data.paths import shown
from destseg.data.prefetch import in_order
from destseg.data.sources import inspected
from destseg.errors import DataError, ImageError
from destseg.redaction import hide

_LOGGER = logging.getLogger(__name__)

PARQUET = ".parquet"
_READERS = 8
_ROWS_AT_A_TIME = 16
# No image of so many pixels is larger: four channels of 16 bits, and some room for a header.
_BYTES_A_PIXEL, _HEADER = 8, 2**20


@dataclass(frozen=True)
class Stored:
    """Where images are stored, and how.

    Attributes:
        root: absolute path or URI of the folder that all lie in.
        image_column: of Parquet: has the bytes of image files; ``None`` for image files.
        path_column: of Parquet: names the images; ``None`` for FILE#ROW.
    """

    root: str = field(repr=False)  # may have a login
    image_column: str | None = None
    path_column: str | None = None

    def read(self, piece: Piece, *, max_pixels: int) -> Iterator[tuple[str, bytes | ImageError]]:
        """Yield (path, bytes or why there are none) of each image of a piece, in order.

        A few are read ahead, so that memory stays bounded and the network's delay is hidden.

        Args:
            piece: which images.
            max_pixels: files that are larger than any such image are not read.
        """
        storage = Storage(self.root)
        if self.image_column is None:
            most = _BYTES_A_PIXEL * max_pixels + _HEADER

            def read(name: str, size: int) -> tuple[str, bytes | ImageError]:
                return self._path(name), _read(storage, name, size, most)

            numbered = zip(piece.names, piece.sizes, strict=True)
            yield from in_order(lambda each: read(*each), numbered, threads=_READERS, ahead=16)
            return
        read_rows = 0
        try:
            for path, content in self._rows(storage, piece):
                yield path, content
                read_rows += 1
        except (OSError, pyarrow.ArrowException) as error:
            told = hide(str(error), self.root)
            # Nothing behind a damaged page can be read, and every row is to be in the results.
            for row in range(piece.start + read_rows, piece.stop):
                path = self._path(f"{piece.names[0]}#{piece.first_row + row}")
                yield path, ImageError(path, f"{EXPECTED}, got unreadable Parquet: {told}")

    def place(self, piece: Piece) -> str:
        """Return the path that a piece's first image has if it cannot be read."""
        if self.image_column is None:
            return self._path(piece.names[0])
        return self._path(f"{piece.names[0]}#{piece.first_row + piece.start}")

    def _rows(self, storage: Storage, piece: Piece) -> Iterator[tuple[str, bytes | ImageError]]:
        columns = [name for name in (self.image_column, self.path_column) if name is not None]
        row = 0
        with storage.open(piece.names[0]) as file:
            parquet = pyarrow.parquet.ParquetFile(file)
            for batch in parquet.iter_batches(_ROWS_AT_A_TIME, list(piece.groups), columns):
                low, high = max(0, piece.start - row), min(len(batch), piece.stop - row)
                row += len(batch)
                if low >= high:
                    continue
                values = batch.slice(low, high - low)
                first = row - len(batch) + low + piece.first_row
                for index in range(len(values)):
                    path = self._path(f"{piece.names[0]}#{first + index}")
                    if self.path_column is not None:
                        given = values.column(self.path_column)[index].as_py()
                        path = path if given is None else str(given)
                    content = _bytes_of(values.column(self.image_column)[index].as_py())
                    if content is None:
                        yield path, ImageError(path, f"{EXPECTED}, got null")
                    else:
                        yield path, content
                if row >= piece.stop:
                    return

    def _path(self, name: str) -> str:
        # File names need not be text; Parquet's are.
        return shown(join(self.root, name))


def plan(
    source: str,
    *,
    image_column: str | None = None,
    path_column: str | None = None,
    size: int | None = None,
) -> tuple[Stored, list[Piece], int]:
    """Find stored images and plan their partitions.

    Args:
        source: folder (searched to any depth), glob, image, .parquet file or list of local files
            (.txt, .csv); a path or a URI.  Of a folder or a glob those files are taken that
            ``kinds.is_image`` takes for images, and of a folder's those that ``sources.inspected``
            says.
        image_column: of Parquet; ``None`` for the only one that has bytes.
        path_column: of Parquet; ``None`` for FILE#ROW.
        size: images of a partition; ``None`` chooses.

    Returns:
        Where they are, the partitions, and the size of these.

    Raises:
        DataError: if there is nothing to inspect, or it cannot be listed.
        SettingsError: if nothing that is installed knows such a URI.
    """
    if not is_uri(source) and PurePosixPath(source).suffix.lower() in LIST_SUFFIXES:
        root, files = list_paths([path for path, _ in read_list(Path(source))])
    else:
        root, files = list_files(source)
        tables = [name for name, _ in files if name.lower().endswith(PARQUET)]
        images = _images(root, files)
        if tables and not images:
            return _plan_tables(root, tables, image_column, path_column, size)
        images = _only_images(source, files, images, tables)
        files = _inspected(source, files, images) if is_folder(source) else images
    if image_column or path_column:
        raise DataError(f"{source}: expected Parquet for a column's name, got image files.")
    size = size or partition_size(len(files))
    return Stored(root), plan_files(files, size), size


def _images(root: str, files: list[tuple[str, int]]) -> list[tuple[str, int]]:
    storage = Storage(root)
    unknown = [name for name, _ in files if name_says(name) is None]
    looked_into = in_order(
        lambda name: is_image(name, partial(storage.head, name)),
        unknown,
        threads=_READERS,
        ahead=8 * _READERS,
    )
    found = dict(zip(unknown, looked_into, strict=True))
    return [file for file in files if found.get(file[0], name_says(file[0]))]


def _only_images(
    source: str, files: list[tuple[str, int]], images: list[tuple[str, int]], tables: list[str]
) -> list[tuple[str, int]]:
    if tables:
        raise DataError(
            f"{source}: expected either images or Parquet, got both; give a glob, such as "
            f"'{source.rstrip('/')}/**/*.png'."
        )
    if len(files) == 1:
        return files  # by its name: reading it says what it is
    names = [name for name, _ in files]
    if not images:
        raise DataError(
            f"{source}: expected images ({suffixes()}) or {PARQUET}, got other files only: "
            f"{some(names)}; check the path."
        )
    unknown = sorted({n for n in names if name_says(n) is None} - {name for name, _ in images})
    if unknown:
        _LOGGER.warning("%s: left out what is no image: %s", source, some(unknown))
    return images


def _inspected(
    source: str, files: list[tuple[str, int]], images: list[tuple[str, int]]
) -> list[tuple[str, int]]:
    """Leave out what is there to train on and what is a mask, and tell how many they are."""
    folders = {name.partition("/")[0] for name, _ in files if "/" in name}
    names = set(inspected([name for name, _ in images], folders))
    if not names:
        raise DataError(
            f"{source}: expected images to inspect, got masks alone; give the folder of the images."
        )
    others = Counter(f"{name.partition('/')[0]}/" for name, _ in images if name not in names)
    if others:
        counted = some([f"{folder} ({count})" for folder, count in others.items()])
        _LOGGER.warning("%s: left out masks and what is not for testing: %s", source, counted)
    return [file for file in images if file[0] in names]


def _plan_tables(
    root: str, names: list[str], image_column: str | None, path_column: str | None, size: int | None
) -> tuple[Stored, list[Piece], int]:
    storage = Storage(root)

    def look(name: str) -> tuple[list[int], Any]:
        try:
            with storage.open(name) as file:
                parquet = pyarrow.parquet.ParquetFile(file)
                groups = range(parquet.metadata.num_row_groups)
                rows = [parquet.metadata.row_group(index).num_rows for index in groups]
                return rows, parquet.schema_arrow
        except (OSError, pyarrow.ArrowException) as error:
            told = hide(str(error), root)
            raise DataError(
                f"{join(root, name)}: expected Parquet, got {told}. Copy the file again, or give "
                "a glob without it."
            ) from error

    groups = []
    for name, (rows, schema) in zip(
        names, in_order(look, names, threads=_READERS, ahead=8 * _READERS), strict=True
    ):
        image_column = _image_column(join(root, name), schema, image_column)
        if path_column is not None and path_column not in schema.names:
            raise DataError(
                f"{join(root, name)}: expected a column {path_column!r} for the paths, got "
                f"{some(schema.names)}."
            )
        groups.append((name, rows))
    total = sum(sum(rows) for _, rows in groups)
    if not total:
        raise DataError(f"{root}: expected rows with images, got empty tables.")
    size = size or partition_size(total)
    return Stored(root, image_column, path_column), plan_rows(groups, size), size


def _image_column(where: str, schema: Any, wanted: str | None) -> str:
    """Return the column with bytes of images: bytes, or a struct with ``bytes`` as HF writes."""
    fitting = [field.name for field in schema if _has_bytes(field.type)]
    if wanted in fitting or (wanted is None and len(fitting) == 1):
        return wanted or str(fitting[0])
    expected = f"a column {wanted!r} with bytes" if wanted else "one column with bytes"
    there = some([f"{field.name} ({field.type})" for field in schema])
    raise DataError(
        f"{where}: expected {expected} of image files, got columns {there}. Name it with "
        "--image-column."
    )


def _has_bytes(kind: Any) -> bool:
    types = pyarrow.types
    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _has_bytes(kind.field(index).type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _bytes_of(value: Any) -> bytes | None:
    return value.get("bytes") if isinstance(value, dict) else value


def _read(storage: Storage, name: str, size: int, most: int) -> bytes | ImageError:
    if size > most:
        return ImageError(name, f"{EXPECTED}, got a file of {size} bytes, which no image has")
    try:
        return storage.read(name)
    except FileNotFoundError:
        return ImageError(name, f"{EXPECTED}, got nothing there; check the path")
    except PermissionError:
        reason = "got a file that may not be read; change its permissions"
        return ImageError(name, f"{EXPECTED}, {reason}")
    except OSError as error:
        told = hide(str(error), storage.root)
        return ImageError(name, f"{EXPECTED}, got a file that cannot be read ({told})")
