"""What a calibration says to people: what is guaranteed, and what more would take."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from destseg.config import Room
from destseg.data.lists import counted, some
from destseg.inference.order_statistics import images_needed

_FEW = 3  # images that are named


def set_by(images: Sequence[str], of_regions: Sequence[str]) -> str:
    """Return which images set the threshold and that of regions."""
    image, pixel = some(images, _FEW), some(of_regions, _FEW)
    return f"set by {image}" + (f", that of regions by {pixel}" if pixel != image else "")


def raised(limit: float, threshold: float, room: Room) -> str:
    """Return by how much the threshold lies above what good images alone ask for, if it does.

    Args:
        limit: what these ask for.
        threshold: what it is.
        room: how far it was to rise.
    """
    if threshold > limit:
        return f", raised from {limit:.4f} towards synthetic anomalies (--room {room})"
    if room == "auto":
        return ""
    return f"; --room {room:g} changes nothing, as synthetic anomalies score no higher"


def guarantee(mean: float, confident: float | None, confidence: float, whom: str) -> str:
    """Return which false-alarm rates a threshold keeps.

    Args:
        mean: the rate in the mean.
        confident: the rate with a confidence; ``None`` where there is none.
        confidence: that one.
        whom: which images it is for, if not all.
    """
    told = f"at most {mean:.2%} false alarms in the mean"
    if confident is not None:
        told += f", {confident:.2%}{_with(confidence)}"
    return told + (f", {whom}" if whom else "")


def too_few_images(count: int, given: float, rate: float, confidence: float) -> str | None:
    """Return what guaranteeing a rate takes; ``None`` where it is guaranteed.

    Args:
        count: of the calibration images.
        given: the rate that is guaranteed.
        rate: the rate asked for.
        confidence: with which; 0 is in the mean.
    """
    if given <= rate:
        return None
    needed = images_needed(rate, confidence)
    return (
        f"with {counted(count, 'calibration image')} the threshold guarantees a false-alarm rate "
        f"of {given:.2%}{_with(confidence)}, not of {rate:.2%}, which takes {needed}: give "
        f"{counted(needed - count, 'more good image')}, or accept a higher --max-false-alarm-rate."
    )


def too_few_groups(
    groups: Sequence[str], given: float, rate: float, confidence: float
) -> str | None:
    """Return the same where images have groups, and in any case that there is but one.

    Args:
        groups: their names.
        given: the rate that is guaranteed.
        rate: the rate asked for.
        confidence: with which; 0 is in the mean.
    """
    k, needed = len(groups), images_needed(rate, confidence)
    if k > 1 and given <= rate:
        return None
    what = (
        f"all calibration images are of one group, {groups[0]}, so the threshold knows "
        "nothing of others: it"
        if k == 1
        else f"with calibration images of {k} groups the threshold"
    )
    short = f", not of {rate:.2%}, which takes {needed} groups" if given > rate else ""
    missing = needed - k
    others = "other groups" if missing < 1 else f"{missing} more groups"
    return (
        f"{what} guarantees a false-alarm rate of {given:.2%}{_with(confidence)}{short}. Add good "
        f"images of {'another group' if missing == 1 else others} as you get them (destseg "
        "calibrate MODEL GOOD --add), or accept a higher --max-false-alarm-rate."
    )


def alone(image: str, score: float, following: float) -> str:
    """Return that one image far above all others sets the threshold.

    Args:
        image: its path.
        score: its score.
        following: the score after it.
    """
    return (
        f"{image} alone sets the threshold: its score is {score:.4f}, the next {following:.4f}. "
        "Look at it. If it shows a defect, train without it, or calibrate with other good images."
    )


def _with(confidence: float) -> str:
    # In decimals: rounded, the highest of all would be a certainty.
    percent = (100 * Decimal(str(confidence))).normalize()
    return f" with {percent:f}% confidence" if confidence else ""
