"""Why a request got the answer it got: each rule's answer for each campaign, from the masks that bids are made with."""

from typing import Any

from msgspec import Struct
from rich.console import Console
from rich.table import Table

from bidder import targeting
from bidder.config import ExchangeConfig
from bidder.decide import decide, usable
from bidder.openrtb import Request
from bidder.privacy import PERMISSIONS, after_lookup, policy
from bidder.privacy import decide as decide_privacy
from bidder.redact import strip
from bidder.snapshot import Snapshot
from bidder.view import view
from dmp.schema import User


class CampaignAnswer(Struct, frozen=True):
    """One campaign for one imp.

    rules: every rule in use -> whether at least one creative of the campaign passes it. verdict: "offered", or the
    first reason against it; `outbid` means other campaigns were worth more. price_micros: None without an offer.
    """

    campaign: str
    rules: dict[str, bool]
    verdict: str
    price_micros: int | None = None
    value_micros: int | None = None
    creative: str = ""


class ImpAnswer(Struct, frozen=True):
    imp: str
    reason: str
    campaigns: list[CampaignAnswer]


class Explanation(Struct, frozen=True):
    """privacy: what took permissions away, and what was only recorded. denied: the permissions taken.
    user: whether user data took part.
    """

    request: str
    reason: str
    privacy: tuple[str, ...]
    denied: tuple[str, ...]
    user: bool
    currency: str
    imps: list[ImpAnswer]


def explain(
    request: Request, user: User | None, snapshot: Snapshot, now_us: int, exchange: ExchangeConfig, name: str
) -> Explanation:
    """Replay one request. user: as the store would return it; privacy decides whether it may be used."""
    privacy = decide_privacy(request, policy(snapshot.settings))
    if privacy.lookup_tags:
        privacy = after_lookup(privacy, user)
    decision = decide(request, privacy, user, snapshot, now_us, exchange, name)
    user = usable(user, privacy, snapshot.settings)
    seen = view(strip(request, privacy), user, now_us, exchange, name, privacy.frequency_cap)
    imps = []
    for i, imp in enumerate(request.imp):
        answers = targeting.answers(snapshot.index, seen, imp)
        offers = {snapshot.by_ad[offer.ad_index].id: offer for offer in decision.offers[i]}
        campaigns = []
        for campaign in snapshot.portfolio.campaigns:
            bits = snapshot.campaign_bits[campaign.id]
            together = bits
            verdict = ""
            for reason, mask in answers:
                together &= mask
                if not together and not verdict:
                    verdict = reason.value
            rules = {reason.value: bool(mask & bits) for reason, mask in answers}
            offer = offers.get(campaign.id)
            if offer is not None:
                price, value, creative = offer.price_micros, offer.value_micros, snapshot.creatives[offer.ad_index].id
                campaigns.append(CampaignAnswer(campaign.id, rules, "offered", price, value, creative))
            else:
                verdict = verdict or ("outbid" if decision.offers[i] else decision.reasons[i].value)
                campaigns.append(CampaignAnswer(campaign.id, rules, verdict))
        imps.append(ImpAnswer(imp.id, decision.reasons[i].value, campaigns))
    denied = tuple(name for name in PERMISSIONS if not getattr(privacy, name))
    return Explanation(
        request.id, decision.reason.value, privacy.reasons, denied, user is not None, decision.currency, imps
    )


def show(explanation: Explanation, console: Console) -> None:
    """A table per imp: one row per campaign, what it failed, what it would have bid."""
    reasons = ", ".join(explanation.privacy) or "nothing restricts"
    denied = ", ".join(explanation.denied) or "nothing"
    console.print(
        f"request {explanation.request}: [bold]{explanation.reason}[/bold]; "
        f"user data used: {'yes' if explanation.user else 'no'}\n"
        f"privacy: {reasons}; not permitted: {denied}",
        highlight=False,
    )
    for imp in explanation.imps:
        table: Any = Table(title=f"imp {imp.imp}: {imp.reason}")
        for heading in ("campaign", "verdict", "fails", "creative"):
            table.add_column(heading, overflow="fold")
        table.add_column(f"price, CPM {explanation.currency}", justify="right")
        for answer in imp.campaigns:
            fails = ", ".join(rule for rule, passed in answer.rules.items() if not passed)
            price = "" if answer.price_micros is None else f"{answer.price_micros / 1e6:.6f}"
            style = "green" if answer.verdict == "offered" else None
            table.add_row(answer.campaign, answer.verdict, fails, answer.creative, price, style=style)
        console.print(table)
