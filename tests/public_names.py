"""Lists what destseg offers: ``python tests/public_names.py > tests/public_names.txt``.

A test compares the file with the list, so that no name, argument or default changes unseen.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator

import destseg


def listed() -> str:
    """Return a line for each public name, and below a class its public members."""
    return "".join(f"{line}\n" for name in destseg.__all__ for line in _lines(name))


def _lines(name: str) -> Iterator[str]:
    thing = getattr(destseg, name)
    if not inspect.isclass(thing):
        yield from _signature(name, thing) if callable(thing) else [name]
        return
    bases = ", ".join(base.__name__ for base in thing.__bases__ if base is not object)
    yield f"class {name}" + (f"({bases})" if bases else "")
    fields = getattr(thing, "__annotations__", {})
    for field, annotation in fields.items():
        is_data = dataclasses.is_dataclass(thing) or issubclass(thing, dict)
        if is_data and not field.startswith("_"):
            yield f"    {field}: {getattr(annotation, '__forward_arg__', annotation)}"
    for member, value in sorted(vars(thing).items()):
        raw = getattr(value, "__func__", value)
        if member == "__init__" and not dataclasses.is_dataclass(thing):
            yield from (f"    {line}" for line in _signature(member, raw))
        elif member.startswith("_") or member in fields:
            continue
        elif inspect.isfunction(raw):
            yield from (f"    {line}" for line in _signature(member, raw))
        elif isinstance(value, property) or hasattr(value, "attrname"):
            yield f"    {member}: property"


def _signature(name: str, thing: Callable[..., object]) -> Iterator[str]:
    """Return a line for the name, one for each argument, and one for what comes back."""
    signature = inspect.signature(thing)
    yield f"{name}("
    for each in signature.parameters.values():
        mark = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        kind = ", by name" if each.kind is each.KEYWORD_ONLY else ""
        default = "" if each.default is each.empty else f" = {each.default!r}"
        yield f"    {mark}{each.name}: {each.annotation}{default}{kind}"
    yield f") -> {signature.return_annotation}"


if __name__ == "__main__":
    print(listed(), end="")
