"""What MkDocs makes of this folder beside the pages: the reference, from the program itself, and links to the code.

Settings come from their models, commands from the command line, artifacts from their declarations, the Python API from
docstrings by pdoc, so none of these pages can say what the program does not.
"""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from icce_ray.cli.main import app
from icce_ray.settings.loading import described
from icce_ray.store.artifacts import DECLARED, STAGES
from icce_ray.store.declaring import Artifact, Column, Table, Tensors

ROOT = Path(__file__).parents[1]
#: Links out of the documentation, to files of the repository, with their text and target.
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the program."""
    pages = {"settings": settings(), "commands": commands(), "artifacts": artifacts(), "python": PYTHON}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Name files of the repository as such. Raises FileNotFoundError for one that is not there."""

    def named(match: re.Match[str]) -> str:
        text, path, _ = match.groups()
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to {path}, which is not there")
        return text if text.strip("`") == path else f"{text} (`{path}`)"

    return _OUTSIDE.sub(named, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """The Python API beside the pages."""
    runpy.run_path(str(ROOT / "docs" / "reference.py"))["main"](Path(config.site_dir) / "api")


def settings() -> str:
    """A table for each group of settings."""
    lines = [
        "# Settings",
        "",
        "Give them with `--set stage.field=value`, or in a YAML file with `--config`; options of the command line come "
        "last and win. `icce settings NAME` prints the same. Only `clusters` has to be given.",
    ]
    group = None
    for one in described():
        head, dot, _ = one.name.rpartition(".")
        if head != group:
            group = head
            lines += ["", f"## {head if dot else 'The run'}", "", "| setting | default | meaning |", "|---|---|---|"]
        choices = f" One of {', '.join(f'`{word}`' for word in one.choices)}." if one.choices else ""
        lines.append(f"| `{one.name}` | {f'`{one.default}`' if one.default else ''} | {_cell(one.meaning)}{choices} |")
    return "\n".join(lines) + "\n"


def commands() -> str:
    """A section for each command: what it does, an example, its options."""
    lines = ["# Commands", "", "`icce COMMAND --help` prints the same."]
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        text = re.sub(r"\[/?\w+\]", "", command.help or "")
        about, _, example = text.partition("Example:")
        lines += ["", f"## icce {name}", "", about.strip()]
        if example:
            lines += ["", "```", *(line.strip() for line in example.strip().splitlines()), "```"]
        lines += ["", "| option | meaning |", "|---|---|"]
        for parameter in command.params:
            lines.append(f"| `{_spelled(parameter)}` | {_cell(getattr(parameter, 'help', None) or '')} |")
    return "\n".join(lines) + "\n"


def _spelled(parameter: Any) -> str:
    metavar = parameter.metavar or ""
    if parameter.param_type_name == "argument":
        return metavar or parameter.name.upper()
    return " ".join([", ".join(parameter.opts), *([metavar] if metavar and not parameter.is_flag else [])])


def artifacts() -> str:
    """A table of every file of a run, by the stage that writes it."""
    lines = [
        "# Artifacts",
        "",
        "What a run holds. A stage is complete when the `_manifest.json` in its folder stands, which lists every file "
        "with rows, bytes and SHA-256; `icce verify RUN` checks all of it. Widths in brackets are per row.",
    ]
    for stage in dict.fromkeys((*STAGES, *(one.stage for one in DECLARED))):
        marker = (
            f"Its marker is `{STAGES[stage].folder}/_manifest.json`."
            if stage in STAGES
            else "A command's, of no stage."
        )
        lines += ["", f"## {stage}", "", marker, ""]
        lines += ["| file | content |", "|---|---|"]
        lines += [f"| `{_path(one)}` | {_content(one)} |" for one in DECLARED if one.stage == stage]
    return "\n".join(lines) + "\n"


def _path(artifact: Artifact) -> str:
    sharded = isinstance(artifact, Table) and not artifact.path.endswith(".parquet")
    return f"{artifact.path}/part-*.parquet" if sharded else artifact.path


def _content(artifact: Artifact) -> str:
    if isinstance(artifact, Table):
        return ", ".join(_column(name, column) for name, column in artifact.columns.items())
    if isinstance(artifact, Tensors):
        return ", ".join(f"`{name}` [{', '.join(shape)}]" for name, shape in artifact.shapes.items())
    return "a JSON object"


def _column(name: str, column: Column) -> str:
    width, optional = f"[{column.width}]" if column.width else "", " (optional)" if column.optional else ""
    return f"`{name}` {column.type}{width}{optional}"


def _cell(text: str) -> str:
    """Text within a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


PYTHON = """# Python

The pages below are made from the docstrings: shapes, types, units and errors of every public name.

- <a href="../api/icce_ray.html">icce_ray</a>: `run`, `predict`, `refine`, `ICCE` and more
- <a href="../api/icce_ray/settings.html">icce_ray.settings</a>: the models of all settings
- <a href="../api/icce_ray/core.html">icce_ray.core</a>: the method itself on tensors

```python
import icce_ray

settings = icce_ray.load_settings({"source": "photos/", "clusters": 20, "out": "runs/photos"})
metrics = icce_ray.run(settings)
```
"""
