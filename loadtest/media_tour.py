"""A small exchange with every medium: banner, video, audio, native and a pod, against the demo portfolio.

Every answer is judged by the referee; wins are billed and one in five is clicked, so that the funnel of each campaign
in the bidder's metrics has all its steps.
"""

import http.client
import json
import re
from typing import Any
from urllib.parse import urlsplit

import msgspec
from rich.console import Console
from rich.table import Table

from loadtest import referee, stage
from loadtest.auction import fill
from loadtest.stage import EXCHANGE, Stage
from loadtest.steps import Advance

CLICK_EVERY = 5
SIZES = ((300, 250), (728, 90), (320, 50), (160, 600), (970, 250))
LENGTHS_S = (6, 15, 30, 60)
_SERIES = re.compile(r'^tagbid_(?:funnel|campaign)_total\{campaign="([^"]*)",step="([^"]*)"\} (\d+)$', re.MULTILINE)
_CLICK = re.compile(r"""(https?://[^\s"'\]<>]+/click\?t=[^\s"'\]&<>]+)""")


class Tour(msgspec.Struct, frozen=True):
    """requests, bids: by medium. violations: what the referee found, expected to be none. funnel: campaign -> step ->
    impressions, of all requests.
    """

    requests: dict[str, int]
    bids: dict[str, int]
    violations: list[str]
    funnel: dict[str, dict[str, int]]


def impressions(number: int) -> dict[str, dict[str, Any]]:
    """One impression of each medium, another for every number."""
    w, h = SIZES[number % len(SIZES)]
    longest = LENGTHS_S[number % len(LENGTHS_S)]
    assets = [
        {"id": 1, "required": 1, "title": {"len": 90}},
        {"id": 2, "required": 1, "img": {"type": 3, "wmin": 300, "hmin": 200}},
        {"id": 3, "data": {"type": 1, "len": 25}},
    ]
    clip = {"mimes": ["video/mp4"], "protocols": [2, 3, 7], "w": 640, "h": 480}
    return {
        "banner": {"banner": {"w": w, "h": h}},
        "video": {"video": clip | {"minduration": 5, "maxduration": longest}},
        "pod": {"video": clip | {"poddur": 60, "maxseq": 3}},
        "audio": {"audio": {"mimes": ["audio/mpeg"], "minduration": 5, "maxduration": max(15, longest)}},
        "native": {"native": {"request": json.dumps({"ver": "1.2", "assets": assets}), "ver": "1.2"}},
    }


def play(on: Stage, rounds: int, advance: Advance) -> Tour:
    """Send `rounds` requests of each medium to a bidder of a stage (with `funnel_every` = 1), one after the other."""
    sent: dict[str, int] = {}
    bids: dict[str, int] = {}
    wrong: list[str] = []
    with stage.store(on), stage.bidder(on) as bidder:
        public = http.client.HTTPConnection(urlsplit(bidder.url).netloc, timeout=10)
        for number in range(rounds):
            for medium, imp in impressions(number).items():
                request = {
                    "id": f"{medium}-{number}", "at": 1 + number % 2, "imp": [{"id": "1", "bidfloor": 0.5, **imp}],
                    "site": {"domain": "news.example", "page": f"https://news.example/{number}"},
                    "device": {"geo": {"country": "USA"}}, "regs": {"gdpr": 0}, "tmax": 1000,
                }  # fmt: skip
                status, answer = _asked(public, "POST", f"/bid/{EXCHANGE}", json.dumps(request).encode())
                found = referee.violations(request, status, answer)
                wrong += [f"{medium}: {problem}" for problem in found]
                sent[medium] = sent.get(medium, 0) + 1
                won = json.loads(answer)["seatbid"][0]["bid"] if status == 200 and not found else []
                bids[medium] = bids.get(medium, 0) + bool(won)
                for bid in won:
                    _serve(public, bid, clicked=number % CLICK_EVERY == 0)
                advance(1)
        public.close()
        admin = http.client.HTTPConnection(urlsplit(bidder.admin).netloc, timeout=10)
        _, metrics = _asked(admin, "GET", "/metrics")
        admin.close()
    return Tour(sent, bids, wrong, _funnel(metrics.decode()))


def _asked(to: http.client.HTTPConnection, method: str, target: str, body: bytes | None = None) -> tuple[int, bytes]:
    to.request(method, target, body)
    answer = to.getresponse()
    return answer.status, answer.read()


def _serve(public: http.client.HTTPConnection, bid: dict[str, Any], clicked: bool) -> None:
    """What exchange and browser call for an ad that won at its own price."""
    macros = {"AUCTION_PRICE": f"{bid['price']:.6f}"}
    urls = [fill(bid["nurl"], macros), fill(bid["burl"], macros)]
    click = _CLICK.search(bid["adm"])
    if clicked and click is not None:
        urls.append(click.group(1))
    for url in urls:
        parts = urlsplit(url)
        _asked(public, "GET", f"{parts.path}?{parts.query}")


def _funnel(metrics: str) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for campaign, step, count in _SERIES.findall(metrics):
        found.setdefault(campaign, {})[step] = int(count)
    return found


ENDS = ("received", "scored", "priced", "sent", "won", "billed", "clicked")


def show(tour: Tour, console: Console) -> None:
    """Two tables: bids by medium, and the funnel of every campaign with the rule that took most."""
    table = Table(title="every medium, judged by the referee")
    for heading in ("medium", "requests", "bids"):
        table.add_column(heading, justify="left" if heading == "medium" else "right")
    for medium, requests in tour.requests.items():
        table.add_row(medium, f"{requests}", f"{tour.bids[medium]}")
    console.print(table)
    console.print(f"violations: {len(tour.violations)}", *tour.violations[:5], highlight=False)
    table = Table(title="the funnel of each campaign, impressions", caption=" > ".join(ENDS))
    table.add_column("campaign", no_wrap=True)
    table.add_column("funnel", no_wrap=True)
    table.add_column("most taken by")
    for campaign, steps in sorted(tour.funnel.items()):
        rules = {step: count for step, count in steps.items() if step not in ENDS and count}
        most = max(rules, key=rules.__getitem__, default="")
        reached = " > ".join(str(steps.get(step, 0)) for step in ENDS)
        table.add_row(campaign, reached, f"{most} ({rules[most]})" if most else "")
    console.print(table)
