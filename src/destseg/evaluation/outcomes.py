"""What became of images at the threshold: one by one, and counted with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from destseg.data.samples import GOOD
from destseg.inference.result import Failure, Result


@dataclass(frozen=True)
class ImageRecord:
    """One image's outcome.

    Attributes:
        path: as given.
        defect_type: ``good``, or the type of the defect.
        score, p_value, is_defective, regions: as in ``Result``, regions counted; ``None`` where
            the image could not be read.
        in_pixel_metrics: whether its pixels are counted: it was read, and is good or has a mask.
        error: why the image or, where there is a score, its mask could not be read; else ``None``.
    """

    path: str
    defect_type: str
    score: float | None
    p_value: float | None
    is_defective: bool | None
    regions: int | None
    in_pixel_metrics: bool = False
    error: str | None = None

    @classmethod
    def of(
        cls, defect_type: str, answer: Result | Failure, in_pixel_metrics: bool, error: str | None
    ) -> ImageRecord:
        """Return what became of an image."""
        if isinstance(answer, Failure):
            return cls(answer.path, defect_type, None, None, None, None, error=error)
        return cls(
            path=answer.path,
            defect_type=defect_type,
            score=answer.score,
            p_value=answer.p_value,
            is_defective=answer.is_defective,
            regions=len(answer.regions),
            in_pixel_metrics=in_pixel_metrics,
            error=error,
        )

    @property
    def outcome(self) -> str:
        """Found, missed, passed, false alarm or unreadable."""
        if self.is_defective is None:
            return "unreadable"
        if self.defect_type == GOOD:
            return "false alarm" if self.is_defective else "passed"
        return "found" if self.is_defective else "missed"


@dataclass(frozen=True)
class Coverage:
    """How many images metrics are of.

    Attributes:
        given: how many were to be measured.
        images: of these, those that could be read: image metrics are of them.
        with_mask: of these, those with a mask: pixel metrics are of them.  A good image needs none.
        unreadable_masks: masks that could not be used; their images have image metrics alone.
    """

    given: int
    images: int
    with_mask: int
    unreadable_masks: int

    @classmethod
    def of(cls, records: Sequence[ImageRecord]) -> Coverage:
        """Return the coverage of some records."""
        read = [record for record in records if record.score is not None]
        return cls(
            given=len(records),
            images=len(read),
            with_mask=sum(record.in_pixel_metrics for record in read),
            unreadable_masks=sum(record.error is not None for record in read),
        )

    def __str__(self) -> str:
        without = self.images - self.with_mask - self.unreadable_masks
        left_out = [
            f"{count} {what}"
            for count, what in (
                (self.given - self.images, "could not be read"),
                (without, "defective without a mask"),
                (self.unreadable_masks, "with a mask that could not be used"),
            )
            if count
        ]
        return (
            f"image metrics over {self.images} of {self.given} images, "
            f"pixel metrics over {self.with_mask}" + (f" ({', '.join(left_out)})" * bool(left_out))
        )
