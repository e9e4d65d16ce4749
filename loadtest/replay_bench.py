"""The auction replay as figures: every strategy at every budget, and ours against the best of the others.

Stream 1458 decides. 2259 only runs: its scores look fitted on the same rows. With 156 clicks the standard error of a
difference is several clicks: the replay can show a strategy that loses a tenth of the clicks, not one that wins a
hundredth; and as the log holds only auctions its bidder won, nothing about dearer ones.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from bidder.agent import Agent
from loadtest import replay
from loadtest.replay import Bidding, Log, Outcome
from loadtest.replay_baselines import Const, DynamicProgramme, Linear, Mcpc, Ortb, PacedLinear
from models.figures import Figure, Options

PART = "replay"
OURS = "tagbid"
UNIT_MICROS = replay.FEN_MICROS
STREAMS: Mapping[str, int] = {"1458_first220k": 1458, "2259_80k": 2259}
DECIDES = "1458_first220k"

AGENTS: Mapping[str, Callable[[], Bidding]] = {
    OURS: Agent,
    "const": Const,
    "mcpc": Mcpc,
    "linear": Linear,
    "paced linear": PacedLinear,
    "ortb": Ortb,
    "dynamic programme": lambda: DynamicProgramme(UNIT_MICROS),
}


def figures(options: Options) -> Iterator[Figure]:
    """All strategies on both streams."""
    for name, advertiser in STREAMS.items():
        log = replay.read(options.data, name, advertiser, options.rows)
        yield from of_log(log, decides=name == DECIDES)


def of_log(
    log: Log, *, decides: bool, episode: int = replay.EPISODE, progress: Callable[[int], None] = lambda _: None
) -> Iterator[Figure]:
    """The figures of one stream. decides: whether its comparison is a goal."""
    found: dict[str, list[Outcome]] = {}
    for name, make in AGENTS.items():
        found[name] = [
            replay.play(log, name, agent, fraction, episode=episode, progress=progress)
            for fraction, agent in _at_budgets(make)
        ]
        for outcome in found[name]:
            yield _figure(log, outcome)
        total = replay.summed(found[name])
        yield Figure(
            part=PART, data=log.name, metric=f"clicks over all budgets, {name}", value=float(total.sum()),
            se=replay.bootstrap_se(total), about={"auctions": found[name][0].auctions},
        )  # fmt: skip
    yield from _verdict(log, found, decides=decides)


def _at_budgets(make: Callable[[], Bidding]) -> Iterator[tuple[float, Bidding]]:
    """An agent per budget, the same one where what it carries over is only a table of the same prices."""
    first = make()
    for fraction in replay.FRACTIONS:
        yield fraction, first if isinstance(first, DynamicProgramme) else make()


def _figure(log: Log, outcome: Outcome) -> Figure:
    clicks, spent = int(outcome.clicks.sum()), int(outcome.spent_micros.sum())
    ours = outcome.agent == OURS
    return Figure(
        part=PART,
        data=log.name,
        metric=f"clicks, {outcome.agent} at 1/{1 / outcome.fraction:.0f}",
        value=float(clicks),
        se=replay.bootstrap_se(outcome.clicks),
        goal=f"no overspend, >= {replay.ENOUGH:.0%} of the budget used" if ours else "",
        met=(not outcome.overspent and outcome.budget_used >= replay.ENOUGH) if ours else None,
        about={
            "ecpc_micros": round(spent / clicks) if clicks else None,
            "win_rate": float(outcome.wins.sum()) / outcome.auctions,
            "budget_used": outcome.budget_used,
            "overspent_episodes": outcome.overspent,
            "surplus_micros": float(outcome.surplus_micros.sum()),
            "spent_micros": spent,
        },
    )


def reading(verdict: Figure) -> str:
    """What the comparison can and cannot show, for people. verdict: the last figure of a stream."""
    about = verdict.about
    return (
        f"The log holds {about['clicks_in_log']} clicks. Two standard errors of the difference are "
        f"{about['smallest_share_that_could_show']:.1%} of the best baseline's clicks: a smaller gain or loss "
        f"cannot be seen here. Nothing is shown of auctions the log's own bidder lost, or of rivals who react."
    )


def _verdict(log: Log, found: Mapping[str, list[Outcome]], *, decides: bool) -> Iterator[Figure]:
    """Ours less the baseline with most clicks over all budgets, which only hindsight names, episode by episode."""
    totals = {name: replay.summed(outcomes) for name, outcomes in found.items()}
    best = max((name for name in totals if name != OURS), key=lambda name: int(totals[name].sum()))
    difference = totals[OURS] - totals[best]
    se = replay.bootstrap_se(difference)
    value = float(difference.sum())
    yield Figure(
        part=PART,
        data=log.name,
        metric=f"clicks over all budgets, {OURS} less {best} (the best baseline)",
        value=value,
        se=se,
        goal=">= -1 standard error" if decides else "",
        met=value >= -se if decides else None,
        about={
            "clicks_in_log": int(log.click.sum()),
            "smallest_share_that_could_show": round(2 * se / max(float(totals[best].sum()), 1.0), 3),
            "episodes": len(np.atleast_1d(difference)),
            "blocks": min(100, len(difference)),
        },
    )
