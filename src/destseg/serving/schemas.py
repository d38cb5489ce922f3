"""The shapes of the JSON answers, for OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from destseg.serving.problems import MEDIA_TYPE

Unit = Annotated[float, Field(ge=0, le=1)]


class RegionBody(BaseModel):
    """A connected part of the map above the pixel threshold, in pixels of the image."""

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: Unit
    peak_x: int
    peak_y: int


class Inspection(BaseModel):
    """What is said of an image."""

    model: str
    weights_sha256: str
    path: str = Field(description="The file's name in the form, else `image`.")
    score: Unit = Field(description="How anomalous; higher is worse.")
    p_value: Unit = Field(description="Fraction of good parts expected to score as high.")
    is_defective: bool = Field(description="Whether the score is above the threshold.")
    threshold: Unit
    pixel_threshold: Unit = Field(description="Map values above it make regions.")
    width: int
    height: int
    regions: list[RegionBody] = Field(description="The highest peak first.")
    seconds: float = Field(description="From the request's arrival.")
    heatmap: str | None = Field(
        description="The map as an 8-bit grey PNG in base64, 0 to 255 for 0 to 1, at the model's "
        "own size, to be stretched over the image; null unless asked for."
    )

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "bottle",
                    "weights_sha256": "9f2c" * 16,
                    "path": "7.png",
                    "score": 0.83,
                    "p_value": 0.045,
                    "is_defective": True,
                    "threshold": 0.31,
                    "pixel_threshold": 0.42,
                    "width": 900,
                    "height": 900,
                    "regions": [
                        {
                            "x": 310,
                            "y": 402,
                            "width": 96,
                            "height": 41,
                            "area": 2210,
                            "peak": 0.91,
                            "peak_x": 352,
                            "peak_y": 420,
                        }
                    ],
                    "seconds": 0.021,
                    "heatmap": "iVBORw0KGgoAAAANSUhEUgAA",
                }
            ]
        }
    )


class CalibrationScores(BaseModel):
    """The good images that set the threshold."""

    count: int
    scores: list[Unit] = Field(description="Rising.")
    tolerance: float = Field(description="A score at most this much above one of them is a tie.")
    groups: int | None = Field(
        description="Of how many groups they are: what is guaranteed is for a new image of a new "
        "one; null where each counts by itself."
    )
    votes: list[Unit] | None = Field(
        description="How much each counts, in the order of the scores; null: each 1."
    )


class ModelBody(BaseModel):
    """A model that is served."""

    name: str
    default: bool
    backend: str
    image_size: int | tuple[int, int] = Field(description="Side, or height and width.")
    tile: bool
    max_pixels: int
    weights_sha256: str
    loaded_at: str
    threshold: Unit
    pixel_threshold: Unit
    max_false_alarm_rate: float = Field(description="What was asked for.")
    guaranteed_false_alarm_rate: float = Field(
        description="At most this fraction of good parts is flagged."
    )
    guarantee_note: str | None = Field(description="Why it guarantees less than was asked for.")
    calibration: CalibrationScores


class LimitsBody(BaseModel):
    """How much the server takes."""

    max_bytes: int
    deadline: float = Field(description="Seconds.")


class ModelList(BaseModel):
    """All models that are served."""

    models: list[ModelBody]
    limits: LimitsBody


class ProblemBody(BaseModel):
    """Why there is no result (RFC 9457)."""

    title: str
    status: int
    detail: str = Field(description="What was expected, what came, what to do.")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "title": "Unprocessable Content",
                    "status": 422,
                    "detail": "expected a JPEG, PNG, BMP, TIFF or WebP image, got an empty file; "
                    "copy it again or remove it",
                }
            ]
        }
    )


def problem_body(description: str) -> dict[str, Any]:
    """Return a refusal as OpenAPI describes it."""
    schema = ProblemBody.model_json_schema()
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}


class TensorBody(BaseModel):
    """A tensor of the Open Inference Protocol."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = Field(None, description="Flat or nested; none where bytes follow.")
    parameters: dict[str, Any] | None = None


class AskedOutput(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferBody(BaseModel):
    """Images to inspect: one input, `image` (UINT8) or `image_bytes` (BYTES, base64 in JSON)."""

    id: str | None = None
    inputs: list[TensorBody] = Field(min_length=1, max_length=1)
    outputs: list[AskedOutput] | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "part-7",
                    "inputs": [
                        {
                            "name": "image",
                            "shape": [1, 2, 2, 3],
                            "datatype": "UINT8",
                            "data": [200, 0, 0, 190, 0, 0, 210, 0, 0, 180, 0, 0],
                        }
                    ],
                    "outputs": [{"name": "score"}, {"name": "is_defective"}],
                }
            ]
        }
    )


class InferAnswer(BaseModel):
    """One value for each image, in order."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[TensorBody]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model_name": "bottle",
                    "model_version": "1",
                    "id": "part-7",
                    "outputs": [
                        {"name": "score", "shape": [1], "datatype": "FP64", "data": [0.83]},
                        {"name": "is_defective", "shape": [1], "datatype": "BOOL", "data": [True]},
                    ],
                }
            ]
        }
    )


class ProtocolProblem(BaseModel):
    """Why there is no result, as the Open Inference Protocol says it."""

    error: str
