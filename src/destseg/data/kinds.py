"""Which files are images: their names say so, or where these say nothing their first bytes."""

from __future__ import annotations

import os
from collections.abc import Callable

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""Formats that are read and written, as Pillow calls them, by suffix."""

IMAGE_SUFFIXES = frozenset(FORMATS)
"""Suffixes of the images that are read, in any letter case."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# In a folder these are images as well: that they cannot be read is to be said, not passed over.
_UNREAD_SUFFIXES = _words(
    """
    .3fr .arw .avif .cr2 .cr3 .dcm .dib .dng .exr .gif .heic .heif .hif .iiq .j2k .jp2 .jpx .jxl
    .jxr .nef .nrw .orf .pbm .pef .pgm .pnm .ppm .psd .raf .raw .rw2 .sr2 .srf .tga .wdp
    """
)
# Not opened: beside each of 100,000 images there may lie one of them.
_OTHER_SUFFIXES = _words(
    """
    .7z .avi .bat .bz2 .cfg .conf .crdownload .css .csv .db .dll .doc .docx .exe .filepart .gz
    .htm .html .ini .ipynb .js .json .jsonl .lnk .log .m .mat .md .mkv .mov .mp4 .mpg .npy .npz
    .onnx .parquet .part .partial .pdf .pkl .ps1 .pt .pth .py .rar .rst .rtf .safetensors .sh
    .sqlite .sqlite3 .svg .tar .tmp .toml .tsv .txt .url .xls .xlsx .xml .xmp .yaml .yml .zip
    .zst
    """
)

HEAD = 16
"""How many of a file's first bytes tell its kind."""

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"GIF8", "GIF"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"v/1\x01", "OpenEXR"),
)


def kind_of(head: bytes) -> str | None:
    """Return the kind of image that a file with these first bytes is; ``None`` if it is none."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in (b"avif", b"avis"):
            return "AVIF"
        return "HEIC" if brand in (b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1") else None
    kind = next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)
    # Two letters alone begin many a text: a bitmap has zeros here.
    return None if kind == "BMP" and head[6:10] != bytes(4) else kind


def name_says(name: str) -> bool | None:
    """Return whether a file's name says that it is an image; ``None`` if it says nothing.

    Of an image also where its kind is not read, so that reading it says so.
    """
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - ten times as quick as a Path
    if suffix in IMAGE_SUFFIXES or suffix in _UNREAD_SUFFIXES:
        return True
    return False if suffix in _OTHER_SUFFIXES or name.endswith("~") else None


def is_image(name: str, head: Callable[[], bytes]) -> bool:
    """Return whether a file in a folder is taken for an image.

    Args:
        name: of the file.
        head: gives its first bytes; asked only where the name says nothing.  If that fails with an
            ``OSError``, as for a link to nothing, the file is taken, and reading it says why.
    """
    said = name_says(name)
    if said is not None:
        return said
    try:
        return kind_of(head()) is not None
    except OSError:
        return True
