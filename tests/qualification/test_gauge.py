"""Gauge studies: against the manual's own example, and a model of known variances."""

import numpy as np
import pytest
from PIL import Image

import destseg
from destseg.errors import DataError
from destseg.qualification.gauge import Gauge, gauge_of, repeats_in

# AIAG, Measurement Systems Analysis, 4th edition: three appraisers, three trials, ten parts.
AIAG = """
.29 -.56 1.34 .47 -.80 .02 .59 -.31 2.26 -1.36
.41 -.68 1.17 .50 -.92 -.11 .75 -.20 1.99 -1.25
.64 -.58 1.27 .64 -.84 -.21 .66 -.17 2.01 -1.31
.08 -.47 1.19 .01 -.56 -.20 .47 -.63 1.80 -1.68
.25 -1.22 .94 1.03 -1.20 .22 .55 .08 2.12 -1.62
.07 -.68 1.34 .20 -1.28 .06 .83 -.34 2.19 -1.50
.04 -1.38 .88 .14 -1.46 -.29 .02 -.46 1.77 -1.49
-.11 -1.13 1.09 .20 -1.07 -.67 .01 -.56 1.45 -1.77
-.15 -.96 .67 .11 -1.45 -.49 .21 -.49 1.87 -2.16
"""


def test_the_manuals_example_gives_the_manuals_figures():
    rows = np.array([line.split() for line in AIAG.strip().splitlines()], float)
    gauge = gauge_of(rows.reshape(3, 3, 10).transpose(2, 0, 1))
    # Table III-B 10 of the manual, the interaction pooled.
    assert gauge.repeatability == pytest.approx(0.199933, abs=1e-4)
    assert gauge.reproducibility == pytest.approx(0.226838, abs=1e-4)
    assert gauge.gauge == pytest.approx(0.302373, abs=1e-4)
    assert gauge.part_variation == pytest.approx(1.042327, abs=1e-4)
    assert 100 * gauge.study_variation == pytest.approx(27.86, abs=0.05)
    assert gauge.categories == 4
    assert gauge.verdict == "doubtful"


@pytest.mark.parametrize("conditions", [1, 6])
def test_known_variances_are_found(conditions):
    random = np.random.default_rng(0)
    sizes = (200, conditions, 4)
    scores = (
        random.normal(0, 3, (200, 1, 1))
        + (random.normal(0, 1, (1, conditions, 1)) if conditions > 1 else 0)
        + (random.normal(0, 0.7, (200, conditions, 1)) if conditions > 1 else 0)
        + random.normal(0, 0.5, sizes)
    )
    gauge = gauge_of(scores)
    assert gauge.repeatability == pytest.approx(0.5, rel=0.06)
    assert gauge.part_variation == pytest.approx(3, rel=0.15)
    if conditions > 1:
        assert gauge.reproducibility == pytest.approx(np.hypot(1, 0.7), rel=0.5)
    else:
        assert gauge.reproducibility == 0


def test_the_verdicts_are_the_fields():
    assert Gauge(10, 1, 2, 0.05, 0.0, 1.0).verdict == "acceptable"
    assert Gauge(10, 1, 2, 0.2, 0.0, 1.0).verdict == "doubtful"
    assert Gauge(10, 1, 2, 0.4, 0.0, 1.0).verdict == "unacceptable"
    same = gauge_of(np.zeros((3, 1, 2)))
    assert same.verdict == "unacceptable"  # it does not tell parts apart
    assert same.to_json()["study_variation"] is same.categories is None


def shoot(folder, level):
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{len(list(folder.iterdir()))}.png"
    Image.fromarray(np.full((64, 64, 3), level, np.uint8)).save(folder / name)


def test_folders_of_shots_are_a_study(tmp_path, model, good):
    for part, level in enumerate((122, 130, 136)):
        for off in (0, 1):
            for condition in ("day", "night"):
                shoot(tmp_path / f"flat/{part}", level + off)
                shoot(tmp_path / f"deep/{part}/{condition}", level + off)
    small = {"sizes": [8, 16], "contrasts": [60], "trials": 1, "images": 3}
    flat = destseg.qualify(model, good, repeats=tmp_path / "flat", **small).gauge
    deep = destseg.qualify(model, good, repeats=tmp_path / "deep", **small).gauge
    assert (flat.parts, flat.conditions, flat.shots) == (3, 1, 4)
    assert (deep.parts, deep.conditions, deep.shots) == (3, 2, 2)
    # Scores differ by a hundredth for a level: 0, 0, 1, 1 for each part.
    assert flat.repeatability == pytest.approx(0.01 / np.sqrt(3), rel=1e-4)
    assert flat.verdict == "acceptable"


def test_studies_that_are_none_are_refused(tmp_path):
    for part in ("a", "b"):
        for number in range(2):
            shoot(tmp_path / part, number)
    shoot(tmp_path / "b", 3)
    with pytest.raises(DataError, match="equally many everywhere, got 2 or 3"):
        repeats_in(tmp_path)
    with pytest.raises(DataError, match="at least 2 parts, got 0"):
        repeats_in(tmp_path / "a")
    with pytest.raises(DataError, match="a folder a part"):
        repeats_in(tmp_path / "nowhere")
    shoot(tmp_path / "a/day", 0)
    with pytest.raises(DataError, match="expected the same conditions as in a"):
        repeats_in(tmp_path)
