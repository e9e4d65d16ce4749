"""The versions of a kind of artefact on the command line: a list of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from models import artefacts

Load = Callable[[Path, str | None], Any]
"""(root, version or None for the live one) -> what has a `manifest`; raises BadArtefact."""


def show(root: Path, kind: str, load: Load, columns: Mapping[str, tuple[str, str]], none: str, as_json: bool) -> None:
    """Print the versions on disk, oldest first; the live one is marked.

    columns: {title: (metric of the manifest, format)}. none: said where there is no version.
    """
    live = artefacts.current(root, kind)
    found: list[dict[str, Any]] = []
    for version in artefacts.versions(root, kind):
        try:
            manifest = load(root, version).manifest
        except artefacts.BadArtefact as error:
            found.append({"version": version, "live": version == live, "problem": str(error)})
        else:
            found.append({"version": version, "live": version == live, "rows": manifest.rows, **manifest.metrics})
    if as_json:
        typer.echo(msgspec.json.encode(found))
        return
    table = Table("", "version", "rows", *columns, "problem")
    for line in found:
        numbers = [format(line[name], form) if name in line else "" for name, form in columns.values()]
        mark = "live" if line["live"] else ""
        table.add_row(mark, line["version"], f"{line.get('rows', '')}", *numbers, line.get("problem", ""))
    Console().print(table if found else f"{none} under {root}")
