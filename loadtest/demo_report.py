"""What the demo found, as one table, one JSON document and one HTML page."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from dmp.offline import Generation
from loadtest import report
from loadtest.arms import Played
from loadtest.lately import Sent
from loadtest.load import Result
from loadtest.report import Cell, Figure, Table, Tile
from loadtest.seeding import Seed
from loadtest.uplift import Uplift, per_spend, uplift
from loadtest.world import Bools, Ints
from models.response import Report

ON, LONGTERM, REALTIME, OFF, PLACEBO = "all tags", "long-term only", "real-time only", "tags off", "placebo"
ARMS = (ON, LONGTERM, REALTIME, OFF, PLACEBO)
WITHIN = 2.0  # standard errors a placebo may be away from none


def assemble(
    generation: Generation,
    events: int,
    sent: Sent,
    seed: Seed,
    trained: Sequence[Report],
    explored: Played,
    played: Mapping[str, Played],
    users: Ints,
    steps: Mapping[str, float],
    seconds: float,
) -> dict[str, Any]:
    """The report. events: of the past; sent: what happened since. trained: click models in the order of `played`.
    users: (n,) whose request each test request was.
    """
    on = played[ON]
    compared = answered_by_all(played.values())
    gains = {name: against(arm, played[OFF], users, compared) for name, arm in played.items() if name != OFF}
    gain, blank = gains[ON], gains[PLACEBO]
    both = against(on, played[LONGTERM], users, compared)
    model, *others = trained
    return {
        "users": generation.users,
        "tags": generation.tags,
        "events": events,
        "seed": msgspec.structs.asdict(seed),
        "model": {
            "auc": model.metrics.auc,
            "auc_se": model.metrics.auc_se,
            "log_loss_gain": model.over_base.value,
            "log_loss_gain_se": model.over_base.se,
            "rows": sum(model.rows),
            "clicks": sum(model.clicks),
            "trees": model.trees,
            "calibration": model.metrics.calibration,
            "auc_of_arms": {name: report.metrics.auc for name, report in zip(ARMS, (model, *others), strict=True)},
        },
        "event_to_tag": {
            "events": sent.events,
            "seconds": sent.seconds,
            "probes": len(sent.latency_us),
            "p50_us": sent.percentile(50),
            "p99_us": sent.percentile(99),
        },
        "gains": {name: _gain(found) for name, found in gains.items()},
        "real_time_beside_long_term": _gain(both),
        "exploration": earned(explored),
        "load": on.told,
        "store": on.store,
        "won": on.books.won,
        "spend_micros": on.books.spend_micros,
        "clicks": on.books.clicks,
        "clicks_per_spend": per_spend(on.books.clicks, on.books.spend_micros),
        "uplift_clicks_per_spend": None if gain is None else gain.value,
        "uplift_standard_error": None if gain is None else gain.standard_error,
        "placebo_uplift": None if blank is None else blank.value,
        "placebo_standard_error": None if blank is None else blank.standard_error,
        "placebo_within_two_errors": None if blank is None else abs(blank.errors) <= WITHIN,
        "compared_requests": int(compared.sum()),
        "arms": {name: {**earned(arm), "load": arm.told} for name, arm in played.items()},
        "steps_s": dict(steps),
        "seconds": round(seconds, 1),
    }


def _gain(found: Uplift | None) -> dict[str, float] | None:
    """Clicks per unit of spend, relative; None with too few clicks to say."""
    return None if found is None else {"value": found.value, "standard_error": found.standard_error}


def earned(arm: Played) -> dict[str, Any]:
    """One arm's money. booked_micros: spend in the bidder's own books; calls: notices by answer."""
    books = arm.books
    return {
        "requests": len(books.price_micros),
        "won": books.won,
        "spend_micros": books.spend_micros,
        "booked_micros": arm.booked_micros,
        "clicks": books.clicks,
        "clicks_per_spend": per_spend(books.clicks, books.spend_micros),
        "wins_by_campaign": {name: int((books.campaign == i).sum()) for i, name in enumerate(books.campaigns)},
        "store": arm.store,
        "late": books.late,
        "rejected": dict(books.rejected),
        "calls": {f"{kind} {status}": count for (kind, status), count in sorted(arm.calls.items())},
    }


def against(arm: Played, other: Played, users: Ints, compared: Bools) -> Uplift | None:
    """compared: (n,) the requests to look at."""
    a, b = arm.books, other.books
    columns = (a.click, a.cost_micros, b.click, b.cost_micros, users)
    return uplift(*(column[compared] for column in columns))


def answered_by_all(played: Iterable[Played]) -> Bools:
    """(n,) requests every arm answered in good time: what a busy machine made late says nothing about tags."""
    prompt: Bools = np.logical_and.reduce([arm.books.prompt > 0 for arm in played])
    return prompt


def publish(found: dict[str, Any], on: Result, out: Path, console: Console) -> None:
    """Print the table, write both files."""
    table = summary_table(found)
    console.print()
    report.print_tables(console, [table])
    report.write_json(out / "report.json", found)
    cards: list[Figure | Table] = [table, *report.load_figures(on), *report.load_tables(found["load"])]
    cards += [steps_table(found["steps_s"]), _campaigns(found["arms"])]
    under = f"a simulated world of {found['users']:,} users · {found['seconds']:.0f} s from events to clicks"
    report.write(out / "report.html", report.page("tagbid demo", under, tiles(found), cards))
    console.print(f"{out / 'report.html'} and {out / 'report.json'}, {found['seconds']:.0f} s in all", markup=False)


def summary_table(found: Mapping[str, Any]) -> Table:
    """Everything the demo has to show, one column an arm."""
    seed, model, arms, now = found["seed"], found["model"], list(found["arms"].values()), found["event_to_tag"]
    loads = [arm["load"] for arm in arms]

    def each(name: str, of: Sequence[Cell]) -> tuple[Cell, ...]:
        return (name, *of)

    def only(name: str, value: Cell) -> tuple[Cell, ...]:
        return (name, value, *[""] * (len(arms) - 1))

    recall = ", ".join(f"{share:.0%} in top {depth} %" for depth, share in seed["held_out_recall"].items())
    rows = [
        only("users with tags", found["users"]),
        only("tags", f"{found['tags']:,} from {found['events']:,} events"),
        only("events over HTTP", f"{now['events']:,} in {now['seconds']:.0f} s"),
        only("  accepted to readable", f"p50 {milliseconds(now['p50_us'])}, p99 {milliseconds(now['p99_us'])}"),
        only("seed", f"{seed['uploaded']:,} ids, about {seed['matched']:,} matched ({seed['match_rate']:.0%})"),
        only("look-alike", f"{seed['lookalike']:,} users, live after {seed['seconds_to_live']:.0f} s"),
        only("  hidden seed found", recall),
        each("model AUC", list(model["auc_of_arms"].values())),
        only("  log-loss gain", f"{model['log_loss_gain']:.1%} ± {model['log_loss_gain_se']:.1%}"),
        each("requests", [load["requests"] for load in loads]),
        each("bid rate", [f"{load['bid_rate']:.1%}" for load in loads]),
        each("wins", [arm["won"] for arm in arms]),
        each("spend", [f"${arm['spend_micros'] / 1e6:,.2f}" for arm in arms]),
        each("clicks", [arm["clicks"] for arm in arms]),
        each("clicks per dollar", [arm["clicks_per_spend"] for arm in arms]),
        each("  against tags off", [_told(found["gains"].get(name)) if name != OFF else "" for name in found["arms"]]),
        only("  against long-term only", _told(found["real_time_beside_long_term"])),
    ]
    for key, name in (("p50", "latency p50"), ("p99", "  p99"), ("p999", "  p99.9")):
        rows.append(each(name, [milliseconds(load["latency_us"][key]) for load in loads]))
    hits = [arm["store"] for arm in arms]
    rows.append(each("user found in the store", [f"{share(store):.1%}" for store in hits]))
    rows.append(each("server CPU per request", [f"{load['server_cpu_us_per_request']:.0f} µs" for load in loads]))
    if any(load["late"] for load in loads):
        rows.append(each("answers after tmax", [load["late"] for load in loads]))
    reasons = sorted({reason for load in loads for reason in load["no_bid_reasons"]})
    rows += [each(f"no bid: {reason}", [load["no_bid_reasons"].get(reason, 0) for load in loads]) for reason in reasons]
    return Table("tagbid demo", ("", *found["arms"]), rows, verdict(found))


def share(store: Mapping[str, int]) -> float:
    """Of the users looked up, those the store knew."""
    return store.get("hit", 0) / max(1, sum(store.values()))


def verdict(found: Mapping[str, Any]) -> str:
    """The table in a sentence."""
    if found["uplift_clicks_per_spend"] is None or found["placebo_uplift"] is None:
        return "Too few clicks to compare the arms."
    placebo = "is" if found["placebo_within_two_errors"] else "IS NOT"
    booked = all(arm["spend_micros"] == arm["booked_micros"] for arm in found["arms"].values())
    return (
        f"± is one standard error (delta method, clustered by user), over the {found['compared_requests']:,} requests "
        f"all arms answered in time. The placebo {placebo} within two of none. "
        f"The bidder's books {'agree' if booked else 'DO NOT AGREE'} with the exchange's to the micro-dollar; "
        f"server CPU includes notices."
    )


def tiles(found: Mapping[str, Any]) -> list[Tile]:
    first = [
        Tile("uplift, clicks per dollar", _uplift(found["uplift_clicks_per_spend"], found["uplift_standard_error"])),
        Tile(
            "placebo",
            _uplift(found["placebo_uplift"], found["placebo_standard_error"]),
            bad=found["placebo_within_two_errors"] is not True,
        ),
        Tile("long-term tags alone", _told(found["gains"][LONGTERM])),
        Tile("real-time tags alone", _told(found["gains"][REALTIME])),
        Tile("event to tag, p99", milliseconds(found["event_to_tag"]["p99_us"])),
        Tile("clicks", report.show(found["clicks"])),
        Tile("spend", f"${found['spend_micros'] / 1e6:,.2f}"),
    ]
    return first + report.load_tiles(found["load"])


def _campaigns(arms: Mapping[str, Any]) -> Table:
    names = next(iter(arms.values()))["wins_by_campaign"]
    rows: list[tuple[Cell, ...]] = [(name, *(arm["wins_by_campaign"][name] for arm in arms.values())) for name in names]
    return Table("Impressions by campaign", ("campaign", *arms), rows)


def steps_table(steps: Mapping[str, float]) -> Table:
    return Table("Steps", ("step", "seconds"), list(steps.items()))


def _told(gain: Mapping[str, float] | None) -> str:
    return "-" if gain is None else _uplift(gain["value"], gain["standard_error"])


def _uplift(value: float | None, error: float | None) -> str:
    return "-" if value is None or error is None else f"{value:+.1%} ± {error:.1%}"


def milliseconds(micros: int | None) -> str:
    return "-" if micros is None else f"{micros / 1000:.2f} ms"
