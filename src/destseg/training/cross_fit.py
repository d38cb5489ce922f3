"""How many defects of few-imaged types would be missed: found by models that learned without them.

Cross-fitting: the types of which there are too few images to keep some from learning are parted
into folds, and for each fold the heads learn once more, in the same way, without its images.  Those
models are asked, each at its own threshold, and thrown away; the finished model learned from all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from destseg.config import changed_settings, recorded
from destseg.data.defects import Defect
from destseg.errors import TrainingError
from destseg.fields import HARMLESS
from destseg.inference.bundle import save_bundle
from destseg.model.destseg import DeSTSeg
from destseg.model_folder import CHECKPOINT, FOLD
from destseg.training.checkpoint import Checkpoint, load_checkpoint
from destseg.training.determinism import exact
from destseg.training.guard import decided, scores_of
from destseg.training.known_parts import KnownParts
from destseg.training.learn import Learning, heads_anew, weights_of
from destseg.training.processes import rank
from destseg.training.threshold import calibrated


def cross_fitted(
    learning: Learning,
    finished: DeSTSeg,
    known: KnownParts,
    folds: Sequence[Sequence[Defect]],
    folder: Path,
) -> tuple[dict[str, bool], float]:
    """Return whether each defect of a fold was found by a model that learned without it.

    Interrupted and called again it goes on where it was: its models stay until they are removed.

    Args:
        learning: of the run.
        finished: its model, whose student the others have too.
        known: the known defects.
        folds: of them, as ``KnownParts.folds`` gives them.
        folder: of the run.

    Returns:
        By the SHA-256 of the image; in the first of several processes, in the others nothing.  And
        the seconds that it took, those before an interruption too.
    """
    settings = learning.settings
    found: dict[str, bool] = {}
    seconds = 0.0
    for number, fold in enumerate(folds):
        place = folder / f"{FOLD}{number + 1}"
        learning.log.fold = number + 1
        learning.log.say(
            f"fold {number + 1} of {len(folds)}: the heads learn again without {len(fold)} of the "
            "known defects, and are then asked about these"
        )
        out = {defect.sha256 for defect in fold}
        with exact(settings.training.seed, learning.device):
            saved = _state(place / CHECKPOINT, learning)
            model = heads_anew(finished, learning)
            if saved is not None:
                model.load_state_dict(dict(saved.model))
            seconds += learning.run(
                model,
                learning.batches([each for each in known.learned if each.sha256 not in out]),
                place,
                saved,
                heads_only=True,
                done=learning.steps - settings.training.segment_steps * (len(folds) - number),
            )
        if rank() != 0:
            continue
        weights = weights_of(model)
        bundle = save_bundle(place, settings, weights, {}, learning.source.roi)
        predictor = calibrated(
            bundle,
            learning.source,
            settings.training.device,
            anomalies=settings.decision.room != 0,
        )
        paths = [each.sample.path for each in fold]
        found |= decided(predictor, scores_of(predictor, [each.sha256 for each in fold], paths))
    learning.log.fold = None
    return found, seconds


def _state(path: Path, learning: Learning) -> Checkpoint | None:
    """Return the saved state of a fold if there is one and it is of this run."""
    if not path.exists():
        return None
    try:
        saved = load_checkpoint(path)
    except TrainingError as error:  # minutes are lost, not the run
        learning.log.say(f"note: this fold begins anew: {error}")
        return None
    changed = changed_settings(recorded(saved.settings), learning.settings, HARMLESS)
    return saved if not changed and saved.data_sha256 == learning.source.sha256 else None
