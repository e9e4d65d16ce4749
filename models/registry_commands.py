"""`tagbid models card`: one model's card, as a page for people or as JSON."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dmp import config as configuration
from models.config import ModelsConfig

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; default tagbid.toml if there is one.")]


def card(
    version: Annotated[str | None, typer.Argument(help="Version; default: the live one.")] = None,
    out: Annotated[Path | None, typer.Option(help="HTML file to write; default: card.html beside the model.")] = None,
    kind: Annotated[str, typer.Option(help="response, conversion, view or value.")] = "response",
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON, write no page.")] = False,
) -> None:
    """Write the model card as one HTML page: gate, calibration, drift, slices, what drives each campaign."""
    from models import registry

    root = Path(configuration.load("models", ModelsConfig, config).models_dir)
    model = registry.load(root, kind, version)
    folder = root / kind / model.version
    text = (folder / "card.json").read_text()
    if as_json:
        typer.echo(text)
        return
    from models import card_page

    path = folder / "card.html" if out is None else out
    path.write_text(card_page.page(json.loads(text), model.version))
    Console().print(f"written: {path}", markup=False, soft_wrap=True)
