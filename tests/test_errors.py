import copy
import inspect
import pickle
import re
from pathlib import Path

import pytest

from destseg import errors
from destseg.errors import (
    BatchError,
    DataError,
    DestsegError,
    ImageError,
    MissingExtraError,
    NotWrittenError,
    SettingsError,
    TrainingInterrupted,
)

CLASSES = {
    name: thing
    for name, thing in vars(errors).items()
    if inspect.isclass(thing) and thing.__module__ == errors.__name__
}
EXAMPLES = [
    DestsegError("what came"),
    *(kind("what came") for kind in CLASSES.values() if "__init__" not in vars(kind)),
    ImageError("part.png", "expected an image, got a word"),
    BatchError([1, None, 3], [ImageError("part.png", "got a word")]),
    NotWrittenError("what came of it", {Path("a.json"): DataError("a.json: a full disk")}),
    TrainingInterrupted(15, "stopped"),
    MissingExtraError("train", "training", "torch"),
]


def documented_tree() -> dict[str, str]:
    """Each class of the docstring's drawing with its parent, by the indentation alone."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    assert errors.__doc__ is not None
    for line in errors.__doc__.splitlines():
        found = re.match(r"^[ │├└─]*([A-Z]\w+)", line)
        if not found or found[1] not in CLASSES:
            continue
        depth = found.start(1)
        while above and above[-1][0] >= depth:
            above.pop()
        if above:
            parents[found[1]] = above[-1][1]
        above.append((depth, found[1]))
    return parents


def test_the_documented_tree_is_the_real_one():
    real = {
        name: kind.__base__.__name__ for name, kind in CLASSES.items() if kind is not DestsegError
    }
    assert documented_tree() == real
    assert len(real) >= 9


def test_every_error_is_documented_and_says_how_to_exit():
    for kind in CLASSES.values():
        assert kind.__doc__
        assert kind.exit_code == (2 if kind is SettingsError else 1)


def test_examples_cover_every_class():
    assert {type(example) for example in EXAMPLES} == set(CLASSES.values())


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_go_between_processes_whole(error):
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert {k: str(v) for k, v in vars(again).items()} == {
            k: str(v) for k, v in vars(error).items()
        }


def test_an_image_error_has_its_path_and_reason():
    error = ImageError("a/part.png", "expected an image, got a word")
    assert (error.path, error.reason) == ("a/part.png", "expected an image, got a word")
    assert str(error) == "a/part.png: expected an image, got a word"


def test_a_batch_error_counts_names_and_keeps_what_was_done():
    failures = [ImageError("b.png", "got a word"), ImageError("d.png", "got nothing")]
    error = BatchError(["a", None, "c", None], failures)
    assert error.results == ("a", None, "c", None)
    assert error.failures == tuple(failures)
    assert "2 of 4 images" in str(error)
    assert "b.png: got a word" in str(error)
    assert "d.png: got nothing" in str(error)


def test_a_missing_extra_says_what_to_install():
    error = MissingExtraError("train", "training", "torch")
    assert error.extra == "train"
    assert "'torch'" in str(error)
    assert "Install the extra 'train' with: pip install " in str(error)
    assert "'torch>=" in str(error)
