"""The report's page: a function of the qualification's plain values, without a script."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from destseg.data.files import write_atomically
from destseg.data.images import resize
from destseg.data.lists import counted
from destseg.pages.one_file import escaped, one_file, part
from destseg.qualification.charts import blind_map, curve_chart, family_image
from destseg.qualification.drawing import FAMILIES, draw_defect
from destseg.qualification.qualification import Qualification
from destseg.qualification.words import Values, borne, fraction, length, summary

_EXAMPLE = 132


def write_page(path: Path, found: Qualification) -> None:
    """Write the page, whole or not at all.

    Raises:
        DataError: if the file cannot be written.
    """
    write_atomically(path, render(found.to_json(), found.typical))


def write_json(path: Path, found: Qualification) -> None:
    """Write the values, whole or not at all.

    Raises:
        DataError: if the file cannot be written.
    """
    write_atomically(path, json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n")


def render(values: Values, typical: NDArray[np.uint8]) -> str:
    """Return the whole page as HTML that refers to nothing outside of itself.

    Args:
        values: what ``Qualification.to_json`` gave; every number on the page is from there.
        typical: the good image, uint8 RGB [h, w, 3].
    """
    room = "destseg.qualification"
    scale = values["plan"]["mm_per_pixel"]
    reference = values["reference"]
    name = values["model"]["name"]
    return one_file(
        part(room, "page.html"),
        style=part("destseg.pages", "base.css") + part(room, "page.css"),
        title=escaped(f"{name}: how small a defect it finds"),
        name=escaped(name),
        summary=_items(summary(values)),
        notes=_section("Read this first", _items(values["notes"])) if values["notes"] else "",
        failures=_failures(values),
        a90=_a90(values),
        examples=_examples(values, typical),
        curves="".join(
            curve_chart(each, f"{each['family']}, contrast {each['contrast']:g}", scale)
            for each in values["detection"]
            if each["contrast"] == reference["contrast"]
        ),
        curve_contrast=escaped(f"{reference['contrast']:g}"),
        tables="".join(_hits(values, family) for family in values["plan"]["families"]),
        reference=escaped(
            f"{length(reference['size'], values)} at a contrast of {reference['contrast']:g} grey "
            f"levels; {fraction(reference['found'])} of them are found"
        ),
        map=blind_map(values, typical),
        tolerance=_tolerance(values),
        guaranteed=escaped(f"{values['model']['guaranteed_false_alarm_rate']:.2%}"),
        spread=_spread(values),
        gauge=_gauge(values),
        settings=_settings(values),
    )


def _a90(values: Values) -> str:
    contrasts = values["plan"]["contrasts"]
    head = ["family", *(f"contrast {each:g}" for each in contrasts)]
    rows = []
    for family in values["plan"]["families"]:
        own = [each for each in values["detection"] if each["family"] == family]
        rows.append(
            [family, *(f"{_limit(each['a90'], values)} / {_limit(each['a90_95'], values)}"
                       for each in own)]
        )  # fmt: skip
    return _table("a90 / a90/95, the largest extent of the defect", head, rows)


def _limit(size: float | None, values: Values) -> str:
    sizes = values["plan"]["sizes"]
    if size is None:
        return f"> {length(sizes[-1], values)}"
    at_most = "≤ " if size <= sizes[0] * (1 + 1e-6) else ""
    return at_most + length(size, values)


def _hits(values: Values, family: str) -> str:
    own = [each for each in values["detection"] if each["family"] == family]
    sizes = values["plan"]["sizes"]
    rows = []
    for each in own:
        counted = dict(zip(each["sizes"], zip(each["hits"], each["trials"], strict=True),
                           strict=True))  # fmt: skip
        cells = [
            f"{counted[size][0]}/{counted[size][1]}" if size in counted else "–" for size in sizes
        ]
        fit = "" if each["fit_probability"] >= 0.01 else " (no curve fits)"
        rows.append([f"{each['contrast']:g}{fit}", *cells])
    return _table(
        f"{family}: {values['plan']['families'][family]}",
        ["contrast", *(length(size, values) for size in sizes)],
        rows,
    )


def _examples(values: Values, typical: NDArray[np.uint8]) -> str:
    """Return an image of each family at the reference's size and contrast, on the good image."""
    reference = values["reference"]
    height, width = typical.shape[:2]
    side = int(min(height, width, max(3 * reference["size"], 48)))
    top, left = (height - side) // 2, (width - side) // 2
    listed = []
    for number, (family, what) in enumerate(values["plan"]["families"].items()):
        if family not in FAMILIES:
            continue
        drawn = draw_defect(
            typical,
            family,
            reference["size"],
            reference["contrast"],
            (height / 2, width / 2),
            np.random.default_rng((values["plan"]["seed"], number)),
        )
        shown = resize(drawn[top : top + side, left : left + side], (_EXAMPLE, _EXAMPLE))
        listed.append(
            f'<figure><img src="{family_image(shown)}" width="{_EXAMPLE}" height="{_EXAMPLE}" '
            f'alt="{escaped(family)}"><figcaption><b>{escaped(family)}</b> {escaped(what)}'
            "</figcaption></figure>"
        )
    return "".join(listed)


def _tolerance(values: Values) -> str:
    unchanged = values["unchanged"]
    rows = [
        ["unchanged", "", f"{unchanged['false_alarms']}/{unchanged['images']}",
         f"{unchanged['found']}/{unchanged['images']}", ""]
    ]  # fmt: skip
    for each in values["tolerances"]:
        for tried in each["tried"]:
            said = "" if tried["is_tolerated"] else "too strong"
            rows.append(
                [each["name"], f"{tried['strength']:g} {each['unit']}",
                 f"{tried['false_alarms']}/{tried['images']}",
                 f"{tried['found']}/{tried['images']}", said]
            )  # fmt: skip
    limits = _table(
        "How strong each change may be, and what ends it",
        ["change", "limit", "ended by"],
        [
            [each["name"], borne(each), " and ".join(each["ended_by"]) or "nothing tried"]
            for each in values["tolerances"]
        ],
    )
    tried = _table(
        "All that was tried",
        ["change", "strength", "false alarms", "reference defects found", ""],
        rows,
    )
    return limits + tried


def _spread(values: Values) -> str:
    plan = values["plan"]
    rows = [
        [name, str(each["parts"]), str(each["repeats"]), f"{each['deviation']:.4f}",
         f"{each['distance']:.4f}", str(each["flipped"])]
        for name, each in (
            ("good", values["repeatability"]["good"]),
            ("with the reference defect", values["repeatability"]["defective"]),
        )
    ]  # fmt: skip
    return _table(
        f"Simulated shots: noise of {plan['noise']:g} grey levels, shifts up to {plan['shift']:g} "
        "pixels to each side",
        ["parts", "number", "shots of each", "standard deviation of the score",
         "nearest mean to the threshold", "parts whose decision flips"],
        rows,
    )  # fmt: skip


def _gauge(values: Values) -> str:
    gauge = values["gauge"]
    if gauge is None:
        return "<p>No real repeated shots were given (<code>--repeats</code>), so none of this is "\
            "about the real camera and its mounting.</p>"  # fmt: skip
    study, categories = gauge["study_variation"], gauge["categories"]
    design = " × ".join(str(gauge[name]) for name in ("parts", "conditions", "shots"))
    rows = [
        ["parts × conditions × shots", design],
        ["repeatability (EV)", f"{gauge['repeatability']:.5f}"],
        ["reproducibility (AV)", f"{gauge['reproducibility']:.5f}"
         if gauge["conditions"] > 1 else "not measured: one condition"],
        ["gauge (GRR)", f"{gauge['gauge']:.5f}"],
        ["part variation (PV)", f"{gauge['part_variation']:.5f}"],
        ["% study variation", "not defined" if study is None else f"{100 * study:.1f} %"],
        ["distinct categories", "unlimited" if categories is None else str(categories)],
        ["verdict", gauge["verdict"]],
    ]  # fmt: skip
    return _table(
        "Gauge study of real repeated shots (ANOVA); standard deviations of the score",
        ["", ""],
        rows,
    )


def _settings(values: Values) -> str:
    model, images, plan = values["model"], values["images"], values["plan"]
    alarms = values["false_alarms"]
    low, high = alarms["interval"]
    facts = {
        "model": model["name"],
        "weights (SHA-256)": model["weights_sha256"],
        "region of interest (SHA-256)": model["roi_sha256"] or "none",
        "runs on": model["backend"],
        "size that it sees": " × ".join(map(str, reversed(model["image_size"])))
        + (" px, tiles" if model["tile"] else " px"),
        "threshold": f"{model['threshold']:.4f}, from "
        f"{counted(model['calibration_images'], 'calibration image')}: {model['guarantee']}",
        "good images": f"{images['given']} given, {images['read']} read, {images['drawn_on']} "
        "drawn on",
        "their contents (SHA-256)": images["sha256"],
        "false alarms among them": f"{alarms['count']} of {alarms['total']} "
        f"(95 % interval {low:.1%} to {high:.1%})",
        "sizes": ", ".join(length(each, values) for each in plan["sizes"]),
        "contrasts": ", ".join(f"{each:g}" for each in plan["contrasts"]) + " grey levels of 255",
        "trials for each": str(plan["trials"]),
        "seed": str(plan["seed"]),
        "destseg": values["destseg"],
    }
    return "".join(f"<dt>{escaped(k)}<dd>{escaped(v)}" for k, v in facts.items())


def _failures(values: Values) -> str:
    told = [f"{each['path']}: {each['error']}" for each in values["failures"]]
    return _section("Images that could not be read", _items(told)) if told else ""


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escaped(title)}</h2>{content}</section>"


def _items(texts: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escaped(text)}" for text in texts) + "</ul>"


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    heading = "".join(f"<th scope=col>{escaped(text)}" for text in head)
    body = "".join(
        f"<tr><th scope=row>{escaped(first)}" + "".join(f"<td>{escaped(cell)}" for cell in cells)
        for first, *cells in rows
    )
    return (
        f'<div class=wide tabindex=0 role=region aria-label="{escaped(caption)}"><table>'
        f"<caption>{escaped(caption)}</caption><thead><tr>{heading}</thead>"
        f"<tbody>{body}</tbody></table></div>"
    )
