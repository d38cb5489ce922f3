"""Write docs/settings.md from the settings classes: ``python docs/make_settings.py``."""

from __future__ import annotations

from pathlib import Path

from destseg.config import PRESETS, Settings, flag, settings_fields

TITLES = {
    "data": "Images",
    "variation": "Changes that are no defect",
    "model": "Networks",
    "synthesis": "Synthetic anomalies",
    "training": "Training",
    "decision": "Score and threshold",
}
HEAD = """# Settings

Written by `docs/make_settings.py`; a test keeps it true. Every setting is a flag of
`destseg train`, a field of `destseg.Settings.from_preset(...)` and a key under its group in the
YAML file that training writes (`settings.yaml`) and `--settings` reads.
"""


def render() -> str:
    """Return the page."""
    fast, paper = Settings().flat(), Settings.from_preset("paper").flat()
    lines = [HEAD]
    group_before = ""
    for group, item in settings_fields():
        if group != group_before:
            lines += [f"\n## {TITLES[group]} (`{group}`)\n"]
            lines += ["| flag | `fast` | `paper` | what |", "|---|---|---|---|"]
            group_before = group
        name, text = item.name, item.metadata["help"]
        rule = item.metadata["rule"].expected
        text += f" Range: {rule}." if rule else ""
        same = "same" if name not in PRESETS["paper"] else _show(paper[name])
        lines.append(f"| `{flag(name)}` | {_show(fast[name])} | {same} | {text} |")
    return "\n".join(lines) + "\n"


def _show(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(f"`{part:g}`" for part in value)
    return f"`{value:.6g}`" if isinstance(value, float) else f"`{value}`"


if __name__ == "__main__":
    (Path(__file__).parent / "settings.md").write_text(render(), encoding="utf-8")
