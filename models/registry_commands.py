"""`tagbid models card` and `shadow`: what a model is, and how a challenger does against the live one."""

import json
from pathlib import Path
from typing import Annotated

import msgspec
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


def shadow(
    bidlog: Annotated[
        Path | None, typer.Argument(help="Bid log to compare on; without it, name the challenger.")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Let the challenger go.")] = False,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """The challenger against the live model, on the live bids both have scored; exits with 1 while it is no better."""
    from models import artefacts, registry

    settings = configuration.load("models", ModelsConfig, config)
    root, console = Path(settings.models_dir), Console()
    if off:
        artefacts.unpoint(root, "response", artefacts.SHADOW)
    version = registry.challenger(root, "response")
    if bidlog is None or version is None:
        console.print(f"challenger: {version or 'none; `tagbid models train --shadow` makes one'}", markup=False)
        return
    from models import shadowing

    check, rows, clicks = shadowing.compare(bidlog, version, settings.click_wait_s * 1_000_000)
    if as_json:
        found = {"challenger": version, "rows": rows, "clicks": clicks, **msgspec.to_builtins(check)}
        typer.echo(msgspec.json.encode(found))
    else:
        verdict = f"better: `tagbid models rollback {version}` makes it live" if check.passed else "not proved better"
        console.print(
            f"{version}: {check.name} {check.value}, {rows:,} bids, {clicks:,} clicks; {verdict}", markup=False
        )
    if not check.passed:
        raise typer.Exit(1)
