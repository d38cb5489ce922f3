"""What was found, in plain sentences, from the plain values of a qualification."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from destseg.data.lists import counted
from destseg.qualification.tolerance import TOO_FEW

Values = Mapping[str, Any]


def length(pixels: float | None, values: Values, largest: float | None = None) -> str:
    """Return a size in words: pixels, and millimetres where they are known.

    Args:
        pixels: the size; ``None`` is larger than the largest tried.
        values: of the qualification.
        largest: size tried; ``None`` is that of the plan.
    """
    if pixels is None:
        tried = values["plan"]["sizes"][-1] if largest is None else largest
        return f"larger than {length(tried, values)}"
    scale = values["plan"]["mm_per_pixel"]
    own = f"{pixels:.3g} px"
    return own if scale is None else f"{own} ({pixels * scale:.2g} mm)"


def fraction(value: float) -> str:
    """Return a fraction in per cent."""
    return f"{100 * value:.0f} %" if value in (0, 1) or value >= 0.1 else f"{100 * value:.2g} %"


def summary(values: Values) -> list[str]:
    """Return what a reader should know, a sentence each: found, missed, conditions, images."""
    reference = values["reference"]
    return [
        *_found(values),
        _blind(values),
        _tolerance(values),
        *_repeats(values),
        f"Measured on {counted(values['images']['drawn_on'], 'good image')} with "
        f"{sum(sum(each['trials']) for each in values['detection']):,} drawn defects; the "
        f"reference defect of what is said of places and conditions is "
        f"{length(reference['size'], values)} at a contrast of {reference['contrast']:g} grey "
        f"levels, of which {fraction(reference['found'])} are found.",
    ]


def _found(values: Values) -> Iterator[str]:
    contrast = values["reference"]["contrast"]
    rows = [each for each in values["detection"] if each["contrast"] == contrast]
    known = [each for each in rows if each["a90_95"] is not None]
    unknown = [each for each in rows if each["a90_95"] is None]
    at = f"at a contrast of {contrast:g} grey levels"
    if known:
        listed = "; ".join(
            f"{each['family']} from {length(each['a90_95'], values)}"
            for each in sorted(known, key=lambda each: float(each["a90_95"]))
        )
        yield f"Found nine times in ten, with 95 % confidence, {at}: {listed}."
    if unknown:
        listed = ", ".join(each["family"] for each in unknown)
        largest = length(values["plan"]["sizes"][-1], values)
        yield f"Not shown to be found nine times in ten up to {largest}, {at}: {listed}."
    faint = [
        each["contrast"]
        for each in values["detection"]
        if all(
            other["a90"] is None
            for other in values["detection"]
            if other["contrast"] == each["contrast"]
        )
    ]
    if faint:
        yield f"At {max(faint):g} grey levels and fainter, no family is found nine times in ten."


def _blind(values: Values) -> str:
    spots = values["blind_spots"]
    if not spots["blind"]:
        return "No place on the part is worse than the others beyond chance."
    rows, columns = len(spots["hits"]), len(spots["hits"][0])
    named = dict.fromkeys(_where(row, column, rows, columns) for row, column in spots["blind"])
    return (
        f"Blind spots: {len(spots['blind'])} of {rows * columns} fields ({', '.join(named)}); "
        "see the map."
    )


def _where(row: int, column: int, rows: int, columns: int) -> str:
    high = ("upper", "middle", "lower")[min(2, 3 * row // rows)]
    side = ("left", "middle", "right")[min(2, 3 * column // columns)]
    return "middle" if high == side == "middle" else f"{high} {side}"


def _tolerance(values: Values) -> str:
    return "Conditions: " + "; ".join(borne(each) for each in values["tolerances"]) + "."


def borne(tolerance: Values) -> str:
    """Return how strong a change may be, in words."""
    unit = tolerance["unit"]
    amount = f"{tolerance['limit']:g}{' ' if unit else ''}{unit}"
    if TOO_FEW in tolerance["ended_by"]:
        return f"{tolerance['name']}: not known, as too few defects are found without it"
    if tolerance["limit"] == 0:
        weakest = tolerance["tried"][0]["strength"]
        return f"{tolerance['name']}: not even {weakest:g} {unit} is borne"
    said = str(tolerance["says"]).format(amount)
    return f"{said} or more (the largest tried)" if tolerance["is_largest"] else said


def _repeats(values: Values) -> Iterator[str]:
    good, defective = values["repeatability"]["good"], values["repeatability"]["defective"]
    flipped, parts = good["flipped"] + defective["flipped"], good["parts"] + defective["parts"]
    yield (
        f"Under camera noise and sub-pixel shifts the decision flips for {flipped} of {parts} "
        "parts, half of them with the reference defect."
    )
    gauge = values["gauge"]
    if gauge is not None:
        study = gauge["study_variation"]
        told = "not defined" if study is None else f"{100 * study:.1f} %"
        yield (
            f"Gauge study on {gauge['parts']} parts: {told} study variation, "
            f"{gauge['categories'] if gauge['categories'] is not None else 'unlimited'} distinct "
            f"categories: {gauge['verdict']}."
        )
