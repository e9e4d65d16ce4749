"""What each step of one bid costs, in process: `tagbid loadtest micro`, and `micro compare` for two commits.

Every round does each step once on the same requests, so that all of them see the same machine; a figure is the median
over the rounds, its range the middle half of them. CPU time of the process is counted, not time passed: others on the
machine then matter little, and waiting for the store does not count.
"""

import asyncio
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bidder.config import BidderConfig
from dmp.config import DmpConfig
from dmp.errors import TagbidError
from dmp.pseudonym import KeyRing, load_key
from dmp.store import Store, open_store
from loadtest import micro_flow, micro_steps, scenario
from loadtest.machine import Commit, Machine, commit, machine
from loadtest.micro_steps import Step

HOME = Path("var/bench/micro")
USERS, REQUESTS, SEED = 2_000, 2_000, 7
CASES = 400  # requests timed; each step takes a few ms a round, a thousand ticks of the CPU clock
WARM_UP = 2  # rounds not counted
SCORING = "score 10, "  # steps that score ten candidates begin so; a kernel's name follows, or LightGBM's own "booster"


class NoFigures(TagbidError):
    """There is no stored run of that name, or it cannot be read."""


class Figure(msgspec.Struct, frozen=True):
    """CPU µs of one step on one request. low, high: quartiles of the rounds; least, most: their ends."""

    us: float
    low: float
    high: float
    least: float
    most: float
    inside: str = ""


class Portfolio(msgspec.Struct, frozen=True):
    """Figures with one portfolio. requests: timed, all of them bid on. candidates: scored per request, mean.

    score10_over_booster: by kernel, the median of the rounds' ratios to Booster.predict of the same ten rows.
    difference: the largest distance of raw scores to LightGBM's, by kernel. in_flow: steps while whole bids are made
    (`loadtest.micro_flow`).
    """

    ads: int
    requests: int
    candidates: float
    steps: dict[str, Figure]
    score10_over_booster: dict[str, float]
    difference: dict[str, float]
    in_flow: dict[str, Figure] = {}


class Run(msgspec.Struct, frozen=True):
    """One `tagbid loadtest micro` as stored. at: UTC. campaigns: figures by the number of campaigns."""

    commit: Commit
    machine: Machine
    at: str
    rounds: int
    campaigns: dict[str, Portfolio]


def run(out: Path | None, sizes: Sequence[int], rounds: int, users: int = USERS, requests: int = REQUESTS) -> Run:
    """Prepare and time; the run is stored under `HOME`, and in `out` as well when given.

    sizes: campaigns of the portfolios. users, requests: of the world they are timed in.
    """
    with TemporaryDirectory(prefix="tagbid-micro-") as folder, Progress(
        console=Console(stderr=True), auto_refresh=False  # a refreshing thread would be timed along
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=3 + len(sizes) * (2 + WARM_UP + rounds))

        def step(what: str) -> None:
            bar.update(task, advance=1, description=what)
            bar.refresh()

        work = Path(folder)
        config = DmpConfig(data_dir=str(work / "data"))
        with open_store(config) as store:
            made = scenario.make(SEED, users, requests)
            ring = KeyRing(load_key(work / "data" / "pseudonym.key"))
            now_us = time.time_ns() // 1000
            step("users")
            scenario.load_users(made, config, store, ring, now_us, work / "events")
            step("model")
            scenario.train(made, scenario.portfolio(made, sizes[0]), store, ring, now_us, work / "models")
            found = {}
            for size in sizes:
                step(f"{size} campaigns")
                text = scenario.portfolio(made, size)
                found[str(size)] = uvloop.run(_portfolio(work, text, store, ring, made.bodies, size, rounds, step))
            step("done")
    done = Run(commit(), machine(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), rounds, found)
    data = msgspec.json.format(msgspec.json.encode(done), indent=1) + b"\n"
    stamp = done.at.replace("-", "").replace(":", "")
    for path in (HOME / f"{done.commit.hash[:12] or 'nowhere'}-{stamp}.json", out):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return done


async def _portfolio(
    work: Path,
    text: str,
    store: Store,
    ring: KeyRing,
    bodies: Sequence[bytes],
    size: int,
    rounds: int,
    step: Callable[[str], None],
) -> Portfolio:
    path = work / "campaigns.toml"
    path.write_text(text)
    async with micro_steps.prepared(_settings(work), work / "data", store, ring, bodies, CASES) as timed:
        times = await _timed(timed.steps, rounds, lambda told: step(f"{size} campaigns, {told}"))
        bodies = timed.bodies
    step(f"{size} campaigns, in flow")
    in_flow = await micro_flow.measured(_settings(work), work / "data", store, ring, bodies, rounds)
    return Portfolio(
        ads=timed.ads,
        requests=len(bodies),
        candidates=round(timed.candidates, 2),
        steps={one.name: figure(times[one.name], one.inside) for one in timed.steps},
        score10_over_booster=_over_booster(times),
        difference=timed.difference,
        in_flow={name: figure(us, micro_flow.INSIDE.get(name, "whole")) for name, us in in_flow.items()},
    )


async def scoring(
    work: Path, store: Store, ring: KeyRing, bodies: Sequence[bytes], rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """`score10_over_booster` and `difference` of the portfolio and the model that lie in `work`, nothing else timed."""
    async with micro_steps.prepared(_settings(work), work / "data", store, ring, bodies, CASES) as timed:
        steps = [one for one in timed.steps if one.name.startswith(SCORING)]
        return _over_booster(await _timed(steps, rounds, lambda _: None)), timed.difference


def _settings(work: Path) -> BidderConfig:
    campaigns, models = work / "campaigns.toml", work / "models"
    return BidderConfig(campaigns=str(campaigns), models_dir=str(models), gdpr_when_unknown="never")


async def _timed(steps: Sequence[Step], rounds: int, told: Callable[[str], None]) -> dict[str, list[float]]:
    """{step: CPU µs per request, of each round}."""
    gc.collect()
    gc.freeze()  # as the bidder does with a new snapshot
    times: dict[str, list[float]] = {one.name: [] for one in steps}
    for number in range(WARM_UP + rounds):
        told(f"round {number + 1 - WARM_UP} of {rounds}" if number >= WARM_UP else "warming up")
        for one in steps:
            us = await measure(one)
            if number >= WARM_UP:
                times[one.name].append(us)
    gc.unfreeze()
    return times


def _over_booster(times: dict[str, list[float]]) -> dict[str, float]:
    theirs = times[SCORING + "booster"]
    ratios = {name: [a / b for a, b in zip(ours, theirs, strict=True)] for name, ours in times.items()}
    return {
        name.removeprefix(SCORING): round(statistics.median(found), 4)
        for name, found in ratios.items()
        if name.startswith(SCORING) and name != SCORING + "booster"
    }


async def measure(step: Step) -> float:
    """CPU µs of one round of a step, per request."""
    await asyncio.sleep(0)  # what the step before left to the loop is not this one's
    gc.collect(1)
    before = time.process_time_ns()
    waiting = step.run()
    if waiting is not None:
        await waiting
    return (time.process_time_ns() - before) / 1000 / step.count


def figure(times: Sequence[float], inside: str = "") -> Figure:
    """Median, quartiles and ends of two rounds or more.

    >>> figure([5.0, 1.0, 2.0, 4.0, 3.0])
    Figure(us=3.0, low=2.0, high=4.0, least=1.0, most=5.0, inside='')
    """
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    us, low, high, least, most = (round(value, 3) for value in (middle, low, high, min(times), max(times)))
    return Figure(us, low, high, least, most, inside)


def find(name: str, home: Path = HOME) -> Path:
    """The stored run of that name: a file, or else the latest of a commit by the beginning of its hash."""
    if Path(name).is_file():
        return Path(name)
    stored = sorted(home.glob("*.json")) if home.is_dir() else []
    fitting = [path for path in stored if len(name) >= 4 and path.name.partition("-")[0].startswith(name[:12])]
    if not fitting:
        known = ", ".join(dict.fromkeys(path.name.partition("-")[0] for path in stored)) or "nothing"
        raise NoFigures(f"no stored run {name!r}: give a file, or a commit that was timed; {home} has {known}")
    if len({path.name.partition("-")[0] for path in fitting}) > 1:
        raise NoFigures(f"{name!r} fits several commits: {', '.join(path.name for path in fitting)}")
    return max(fitting, key=lambda path: path.name)


def read(path: Path) -> Run:
    """A stored run; raises NoFigures."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Run)
    except OSError as error:
        raise NoFigures(f"{path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise NoFigures(f"{path} is no run of `tagbid loadtest micro`: {error}") from None


def verdict(before: Figure, after: Figure) -> str:
    """Faster or slower, and "inconclusive" where the middle halves of the rounds overlap.

    >>> verdict(Figure(3, 2, 4, 1, 5), Figure(2, 1, 3, 1, 5)), verdict(Figure(5, 4, 6, 1, 9), Figure(2, 1, 3, 1, 9))
    ('inconclusive', 'faster')
    """
    if after.high < before.low:
        return "faster"
    return "slower" if after.low > before.high else "inconclusive"


def unnamed_us(steps: dict[str, Figure], name: str) -> float:
    """What a step costs beyond the steps inside it."""
    return steps[name].us - sum(figure.us for figure in steps.values() if figure.inside == name)


def _ordered(steps: dict[str, Figure], inside: str = "", depth: int = 0) -> list[tuple[int, str]]:
    found = []
    for name, one in steps.items():
        if one.inside == inside:
            found += [(depth, name), *_ordered(steps, name, depth + 1)]
    return found


def _title(done: Run) -> str:
    where = f"commit {done.commit.hash[:12]}" if done.commit.hash else "outside a checkout"
    return f"{where}{' and changes' if done.commit.modified else ''}, {done.at}, {done.machine.cpu}"


def print_tables(console: Console, done: Run) -> None:
    """The run for people."""
    for size, portfolio in done.campaigns.items():
        table = Table(
            "step", "µs by itself", "middle half", "µs in flow", "middle half", "of the whole",
            title=f"{size} campaigns, {portfolio.ads} ads, {portfolio.candidates:.1f} candidates",
        )  # fmt: skip
        alone, flowing = portfolio.steps, portfolio.in_flow
        for depth, name in _ordered({**flowing, **alone}):
            by_itself, in_flow = alone.get(name), flowing.get(name)
            table.add_row(
                "  " * depth + name, *_cells(by_itself), *_cells(in_flow),
                _share(flowing, name) if flowing else _share(alone, name),
            )  # fmt: skip
        if not flowing:
            rest = unnamed_us(alone, "whole")
            table.add_row("  between the steps", f"{rest:.2f}", "", "", "", f"{rest / alone['whole'].us:.0%}")
        console.print(table)
        for kernel, ratio in portfolio.score10_over_booster.items():
            console.print(
                f"score 10, {kernel}: {ratio:.3f} of Booster.predict, raw scores differ by at most "
                f"{portfolio.difference[kernel]:.1e}"
            )
    console.print(
        f"CPU µs per request, medians of {done.rounds} rounds, {micro_steps.TURN} requests a turn or one alone; "
        "by itself: the step done over and over, its code and data in the caches; in flow: within whole bids; "
        + _title(done)
    )


def _cells(one: Figure | None) -> tuple[str, str]:
    return ("", "") if one is None else (f"{one.us:.2f}", f"{one.low:.2f} to {one.high:.2f}")


def _share(steps: dict[str, Figure], name: str) -> str:
    """A step's part of the whole, "" for what is none."""
    one = steps.get(name)
    return f"{one.us / steps['whole'].us:.0%}" if one is not None and (one.inside or name == "whole") else ""


def print_comparison(console: Console, before: Run, after: Run) -> None:
    """Two runs side by side, for the portfolios both have. Raises NoFigures when there is none."""
    both = [size for size in before.campaigns if size in after.campaigns]
    if not both:
        raise NoFigures("the two runs have no number of campaigns in common")
    tables = [
        (f"{size} campaigns{where}", a, b)
        for size in both
        for where, a, b in (
            (", steps by themselves", before.campaigns[size].steps, after.campaigns[size].steps),
            (", in flow", before.campaigns[size].in_flow, after.campaigns[size].in_flow),
        )
        if a and b
    ]
    for title, a, b in tables:
        table = Table("step", "A µs", "A middle half", "B µs", "B middle half", "B / A", "", title=title)
        for depth, name in _ordered(a):
            if name in b:
                table.add_row(
                    "  " * depth + name,
                    f"{a[name].us:.2f}", f"{a[name].low:.2f} to {a[name].high:.2f}",
                    f"{b[name].us:.2f}", f"{b[name].low:.2f} to {b[name].high:.2f}",
                    f"{b[name].us / a[name].us:.3f}", verdict(a[name], b[name]),
                )  # fmt: skip
        console.print(table)
        if missing := [name for name in {**a, **b} if name not in a or name not in b]:
            console.print(f"In one of them only: {', '.join(missing)}")
    console.print(f"A: {_title(before)}\nB: {_title(after)}")
    if before.machine != after.machine:
        console.print("The machines differ: compare shares, not µs.")
