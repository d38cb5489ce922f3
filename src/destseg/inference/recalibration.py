"""New calibrations in a bundle, with the old ones kept beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from destseg.data.files import write_atomically
from destseg.errors import BundleError, DataError, SettingsError
from destseg.inference.bundle import Bundle, save_calibration
from destseg.inference.calibration import Calibration
from destseg.inference.exports import Export, save_export_calibration
from destseg.model_folder import CALIBRATION, KEPT


def recalibrate(
    bundle: Bundle, forms: Mapping[str, Export], fitted: Mapping[str, Calibration]
) -> str:
    """Write new calibrations; each old one stays beside the new one, under a name with the time.

    All old ones are kept before the first is replaced, and every file is written atomically.

    Args:
        bundle: whose calibration is ``fitted[""]``.
        forms: its forms with calibrations of their own, by name.
        fitted: the new ones.

    Returns:
        The name of the kept files, the same in every folder; ``restored`` reads them.

    Raises:
        OSError: if the bundle cannot be written to.
    """
    folders = {"": bundle.folder} | {name: form.folder for name, form in forms.items()}
    kept = next(each for each in _kept_names() if not (bundle.folder / each).exists())
    for name in fitted:
        if (folders[name] / CALIBRATION).is_file():
            write_atomically(folders[name] / kept, (folders[name] / CALIBRATION).read_bytes())
    for name, form in forms.items():
        if name in fitted:
            save_export_calibration(form, fitted[name])
    save_calibration(bundle, fitted[""])
    return kept


def restored(bundle: Bundle, forms: Mapping[str, Export], kept: str) -> dict[str, Calibration]:
    """Read calibrations that ``recalibrate`` kept, for it to write them again.

    A form has none where it was made later.

    Raises:
        BundleError: if there is none of that name, or it is damaged or of another model.
    """
    name = Path(kept).name
    if not (bundle.folder / name).is_file():
        there = sorted(path.name for path in bundle.folder.glob(KEPT))
        raise BundleError(
            f"{bundle.folder}: expected a kept calibration, got no file {name}; there "
            f"{'are ' + ', '.join(there) if there else 'is none'}."
        )
    hashes = {"": bundle.weights_sha256} | {each: form.sha256 for each, form in forms.items()}
    folders = {"": bundle.folder} | {each: form.folder for each, form in forms.items()}
    found = {}
    for each, folder in folders.items():
        if not (folder / name).is_file():
            continue
        try:
            calibration = Calibration.from_dict(json.loads((folder / name).read_bytes()))
        except (ValueError, TypeError, KeyError, DataError, SettingsError) as error:
            raise BundleError(
                f"{folder / name}: expected a calibration of destseg, got {error!r}."
            ) from error
        calibration.require_match(bundle.settings, hashes[each], folder, bundle.roi_sha256)
        found[each] = calibration
    return found


def _kept_names() -> Iterator[str]:
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    yield KEPT.replace("*", now)
    number = 2
    while True:
        yield KEPT.replace("*", f"{now}-{number}")
        number += 1
