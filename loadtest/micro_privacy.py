"""What a privacy decision costs: `tagbid loadtest micro privacy` (P-05: under 60 µs for a new string of 300 characters,
under 1 µs for one that is remembered).

The strings are made here, bit by bit, each another one, because what is remembered must not be measured by accident.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bidder.config import BidderConfig
from bidder.openrtb import Request, decode
from bidder.privacy import decide, policy
from loadtest.machine import Commit, Machine, commit, machine

VENDOR = 19
VENDORS = 770  # so many make a string of 300 characters
REMEMBERED_TIMES = 20  # a decision that is remembered is too short to be timed once
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class Figure(msgspec.Struct, frozen=True):
    """CPU µs of one decision, median of the rounds and their ends. aim: what it should stay under."""

    us: float
    least: float
    most: float
    aim: float


class Run(msgspec.Struct, frozen=True):
    """chars: length of the TC strings. figures: by what was decided on."""

    commit: Commit
    machine: Machine
    at: str
    chars: int
    strings: int
    rounds: int
    figures: dict[str, Figure]


def tc_string(seed: int) -> str:
    """A TC string of policy version 5 with all purposes and a random half of the vendors, ours among them."""
    rng = random.Random(seed)
    stamp = 17_700_000_000 + seed
    vendors = "".join("1" if i == VENDOR or rng.random() < 0.5 else "0" for i in range(1, VENDORS + 1))
    field = f"{VENDORS:016b}0{vendors}"
    bits = (
        f"{2:06b}{stamp:036b}{stamp:036b}{10:012b}{1:012b}{0:06b}{4:06b}{13:06b}{120:012b}{5:06b}10{0:012b}"
        f"{'1' * 11:0<24}{'0' * 24}0{3:06b}{4:06b}{field}{field}{0:012b}"
    )
    bits += "0" * (-len(bits) % 6)
    return "".join(_ALPHABET[int(bits[i : i + 6], 2)] for i in range(0, len(bits), 6))


def requests_of(strings: Sequence[str]) -> list[Request]:
    """One request under GDPR for each string."""
    return [
        decode(
            msgspec.json.encode(
                {
                    "id": str(n),
                    "imp": [{"id": "1", "banner": {"w": 300, "h": 250}}],
                    "user": {"buyeruid": f"u{n}", "consent": text},
                    "device": {"ua": "x", "ip": "192.0.2.1", "geo": {"country": "DEU"}},
                    "regs": {"gdpr": 1},
                }
            )
        )
        for n, text in enumerate(strings)
    ]


def run(out: Path | None, strings: int, rounds: int, console: Console) -> Run:
    """Time it. strings: distinct ones in a round. out: where the figures are written, None = nowhere."""
    settings = BidderConfig(gvl_id=VENDOR, tcf_consent=tuple(range(1, 12)))
    texts = [tc_string(n) for n in range(strings)]
    consented = requests_of(texts)
    plain = [msgspec.structs.replace(one, user=None, regs=None) for one in consented]
    remembering = policy(settings)
    forgetful = policy(msgspec.structs.replace(settings, consent_cache_entries=0))
    for one in consented + plain:
        decide(one, remembering)

    def each(made: Sequence[Request], how: str) -> Callable[[], int]:
        used = forgetful if how == "new" else remembering
        times = 1 if how == "new" else REMEMBERED_TIMES

        def decisions() -> int:
            for _ in range(times):
                for one in made:
                    decide(one, used)
            return times * len(made)

        return decisions

    parts = {
        "a new TC string": (each(consented, "new"), 60.0),
        "a remembered TC string": (each(consented, "remembered"), 1.0),
        "no consent string": (each(plain, "remembered"), 1.0),
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    with Progress(console=console, transient=True) as bar:
        for _ in bar.track(range(rounds), description="privacy"):
            for name, (decisions, _) in parts.items():
                before = time.process_time_ns()
                count = decisions()
                times[name].append((time.process_time_ns() - before) / 1000 / count)
    figures = {
        name: Figure(round(statistics.median(found), 3), round(min(found), 3), round(max(found), 3), parts[name][1])
        for name, found in times.items()
    }
    made = Run(
        commit(), machine(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), len(texts[0]), strings, rounds, figures
    )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
    return made


def table(made: Run) -> Table:
    """The run for people."""
    found = Table("decision on", "µs", "least to most", "aim")
    for name, one in made.figures.items():
        found.add_row(name, f"{one.us:.2f}", f"{one.least:.2f} to {one.most:.2f}", f"< {one.aim:g}")
    found.caption = f"CPU µs, median of {made.rounds} rounds over {made.strings} strings of {made.chars} characters"
    return found
