"""What the demo on real logs found, as one table, one JSON document and one HTML page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from dmp.offline import Generation
from loadtest import report
from loadtest.broken import Judged
from loadtest.demo_report import milliseconds, share, steps_table
from loadtest.load import Result
from loadtest.real_users import Imported
from loadtest.report import Cell, Figure, Table, Tile
from loadtest.seeding import Seed
from models.response import Report


class Sent(msgspec.Struct, frozen=True):
    """Traffic and what came of it. told: keys of `summary.summarise`. store: {result: user reads}."""

    result: Result
    told: dict[str, Any]
    store: dict[str, int]


def assemble(
    generation: Generation,
    events: int,
    imported: Imported,
    seed: Seed,
    trained: Mapping[str, Report | str],
    serving: str | None,
    live: Sent,
    others: Sent,
    broken: Judged,
    defects: int,
    steps: Mapping[str, float],
    seconds: float,
) -> dict[str, Any]:
    """The report; keys as those of the simulated demo, None where real logs have no answer.

    serving: the source whose model bids, None for none. defects: errors the bidder caught at its edge.
    """
    model = trained.get(serving or "")
    return {
        "users": generation.users,
        "tags": generation.tags,
        "events": events,
        "imported": {"users": imported.users, "tags": len(imported.tags)}
        | {"unmapped": imported.unmapped, "left_out_as_sensitive": imported.sensitive},
        "seed": msgspec.structs.asdict(seed),
        "model": {"source": serving, **_judged(model)}
        if isinstance(model, Report)
        else {"auc": None, "log_loss_gain": None},
        "models": {source: _judged(found) for source, found in trained.items()},
        "load": live.told,
        "store": live.store,
        "hit_rate": share(live.store),
        "others": {"load": others.told, "store": others.store},
        "broken": msgspec.to_builtins(broken),
        "defects": defects,
        "won": None,
        "spend_micros": None,
        "clicks": None,
        "uplift_clicks_per_spend": None,
        "steps_s": dict(steps),
        "seconds": round(seconds, 1),
    }


def _judged(found: Report | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"refused": found}
    return {
        "auc": found.metrics.auc,
        "auc_se": found.metrics.auc_se,
        "log_loss_gain": found.over_base.value,
        "log_loss_gain_se": found.over_base.se,
        "rows": sum(found.rows) if found.folds == 1 else found.metrics.rows,
        "clicks": sum(found.clicks) if found.folds == 1 else found.metrics.clicks,
        "folds": found.folds,
        "refused": found.refused,
    }


def publish(found: dict[str, Any], live: Result, out: Path, console: Console) -> None:
    """Print the tables, write both files."""
    tables = [summary_table(found), broken_table(found)]
    if found["broken"]["violations"]:
        tables.append(violations_table(found))
    console.print()
    report.print_tables(console, tables)
    report.write_json(out / "report.json", found)
    cards: list[Figure | Table] = [*tables, models_table(found), *report.load_figures(live)]
    cards += [*report.load_tables(found["load"]), steps_table(found["steps_s"])]
    under = f"real bid requests, real users' tags, a model of real clicks · {found['seconds']:.0f} s"
    report.write(out / "report.html", report.page("tagbid demo on real logs", under, tiles(found), cards))
    console.print(f"{out / 'report.html'} and {out / 'report.json'}, {found['seconds']:.0f} s in all", markup=False)


def summary_table(found: Mapping[str, Any]) -> Table:
    """Everything there is to show, one column a kind of traffic."""
    seed, model = found["seed"], found["model"]
    loads = [found["load"], found["others"]["load"]]
    stores = [found["store"], found["others"]["store"]]

    def only(name: str, value: Cell) -> tuple[Cell, ...]:
        return (name, value, "")

    rows: list[tuple[Cell, ...]] = [
        only("users with tags", found["users"]),
        only("tags", f"{found['tags']:,}: {found['events']:,} page views, {found['imported']['tags']:,} segments"),
        only("seed", f"{seed['uploaded']:,} ids, about {seed['matched']:,} matched ({seed['match_rate']:.0%})"),
        only("look-alike", f"{seed['lookalike']:,} users, live after {seed['seconds_to_live']:.0f} s"),
        only("  hidden seed found", ", ".join(f"{v:.0%} in top {k} %" for k, v in seed["held_out_recall"].items())),
    ]
    if model["auc"] is None:
        rows.append(only("click model", "none passed the gate; bids assume the prior click rate"))
    else:
        rows.append(only(f"click model ({model['source']})", f"AUC {model['auc']:.3f} ± {model['auc_se']:.3f}"))
        rows.append(only("  log-loss gain", f"{model['log_loss_gain']:.1%} ± {model['log_loss_gain_se']:.1%}"))
    rows += [
        ("requests", *(load["requests"] for load in loads)),
        ("answered", *(load["requests"] - load["unanswered"] for load in loads)),
        ("  5xx", *(_server_errors(load) for load in loads)),
        ("  400", *(load["statuses"].get("400", 0) for load in loads)),
        ("bid rate", *(f"{load['bid_rate']:.1%}" for load in loads)),
        ("bids an exchange would reject", *(sum(load["body_problems"].values()) for load in loads)),
        ("user found in the store", *(f"{share(store):.1%} of {sum(store.values()):,}" for store in stores)),
    ]
    for key, name in (("p50", "latency p50"), ("p99", "  p99"), ("p999", "  p99.9")):
        rows.append((name, *(milliseconds(load["latency_us"][key]) for load in loads)))
    rows.append(("server CPU per request", *(f"{load['server_cpu_us_per_request']:.0f} µs" for load in loads)))
    reasons = sorted({reason for load in loads for reason in load["no_bid_reasons"]})
    rows += [(f"no bid: {reason}", *(load["no_bid_reasons"].get(reason, 0) for load in loads)) for reason in reasons]
    return Table("tagbid demo on real logs", ("", "AdX stream", "other exchanges"), rows, verdict(found))


def verdict(found: Mapping[str, Any]) -> str:
    """The table in a sentence."""
    failures = len(found["broken"]["violations"])
    loads = [found["load"], found["others"]["load"]]
    sound = found["defects"] == 0 and not any(load["unanswered"] or _server_errors(load) for load in loads)
    return (
        f"{'Every request was answered, none with 5xx.' if sound else 'REQUESTS FAILED: see the tables.'} "
        f"{failures or 'No'} broken request{'' if failures == 1 else 's'} got another answer than expected. "
        f"Users are looked up by the exchange's id; a hit is a user of the first third of the stream seen again."
    )


def broken_table(found: Mapping[str, Any]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            kind["requests"],
            kind["met"],
            ", ".join(f"{status}: {count}" for status, count in sorted(kind["statuses"].items())),
        )
        for name, kind in found["broken"]["kinds"].items()
    ]
    return Table("Broken requests", ("fault", "requests", "as expected", "statuses"), rows)


def violations_table(found: Mapping[str, Any]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (v["kind"], v["reason"], v["expect"], str(v["status"] or "none")) for v in found["broken"]["violations"]
    ]
    return Table("Answers other than expected", ("fault", "reason", "expected", "status"), rows)


def models_table(found: Mapping[str, Any]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            source,
            model.get("rows"),
            model.get("clicks"),
            None if model.get("auc") is None else f"{model['auc']:.3f} ± {model['auc_se']:.3f}",
            None if model.get("auc") is None else f"{model['log_loss_gain']:.1%} ± {model['log_loss_gain_se']:.1%}",
            model["refused"] or "passed",
        )
        for source, model in found["models"].items()
    ]
    note = "Each source was sampled in its own way: a model's click rates are those of its sample."
    return Table("Click models", ("source", "rows", "clicks", "AUC", "log-loss gain", "gate"), rows, note)


def tiles(found: Mapping[str, Any]) -> list[Tile]:
    wrong = len(found["broken"]["violations"])
    first = [
        Tile("user found in the store", f"{found['hit_rate']:.1%}"),
        Tile("broken requests, unexpected answers", str(wrong), bad=wrong > 0),
        Tile("defects", str(found["defects"]), bad=found["defects"] > 0),
    ]
    return first + report.load_tiles(found["load"])


def _server_errors(load: Mapping[str, Any]) -> int:
    return sum(count for status, count in load["statuses"].items() if status.startswith("5"))
