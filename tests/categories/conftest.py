"""Two small categories in MVTec's layout, one that cannot be trained, and made-up outcomes."""

from pathlib import Path

import pytest

from conftest import write_category
from destseg.categories.job import JobOutcome
from destseg.categories.plan import Category, TrainingJob
from destseg.config import Settings


@pytest.fixture(scope="session")
def categories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of categories; not to be written to."""
    root = tmp_path_factory.mktemp("categories")
    for seed, name in enumerate(("bolt", "nut")):
        write_category(root / name, seed)
    (root / "worn").mkdir()
    (root / "worn/a.png").write_bytes(b"words")
    (root / ".hidden").mkdir()
    (root / "licence.txt").write_text("words", encoding="utf-8")
    return root


@pytest.fixture
def made_up(tmp_path: Path):
    """Return a function that gives the outcome of a job that was never run."""

    def outcome(
        category: str, seed: int, reason: str | None = None, **metrics: float
    ) -> JobOutcome:
        folder = tmp_path / "out" / category / f"seed-{seed}"
        job = TrainingJob(
            Category(category, tmp_path / category), Settings().replace(seed=seed), folder
        )
        if reason is not None:
            return JobOutcome(job, reason=reason)
        pixel = {name: metrics.get(name) for name in ("auroc", "ap", "aupro", "iap", "iap_90")}
        counts = {
            "false_alarms": {"count": 1 + seed, "total": 20},
            "misses": {"count": 2, "total": 60},
            "coverage": {"given": 80, "images": 80, "with_mask": 80, "unreadable_masks": 0},
            "failures": [],
        }
        measured = {"image": {"auroc": metrics.get("image_auroc")}, "pixel": pixel, **counts}
        result = {
            "category": category,
            "seed": seed,
            "minutes": 2.0 + seed,
            "device": "cpu",
            "restarts": 0,
            "metrics": measured if metrics else None,
        }
        return JobOutcome(job, result)

    return outcome
