"""The advertisers of the simulated world: one pay-per-click campaign in each of twelve verticals, and one audience.

They differ in nothing a comparison could trip over: a click is worth the same to each, all have the
same banner sizes and a budget they will not use up. Each has a seat of its own, so that the exchange can offer an
impression to one of them alone.
"""

from collections.abc import Sequence

import msgspec

from loadtest.world import SIZES, VERTICALS

ADVERTISED = 12  # verticals with an advertiser; people care about the others too, and nobody sells to that
AUDIENCE = "customers"
AUDIENCE_VERTICAL = 0
CLICK_MICROS = 250_000
BANNERS = SIZES[:-1]  # nobody made a skyscraper
BUDGET_MICROS = 5_000_000_000


class Advertiser(msgspec.Struct, frozen=True):
    """vertical: index into `world.VERTICALS`. click_micros: what a click is worth. audience: its campaign is for
    that audience only, "" for everybody. capped: impressions of a user in a day, 0 for no cap.
    """

    name: str
    vertical: int
    click_micros: int
    audience: str = ""
    capped: int = 0

    @property
    def campaign(self) -> str:
        return f"{self.name}-{'lookalike' if self.audience else 'open'}"

    @property
    def seat(self) -> str:
        return f"seat-{self.campaign}"


def advertisers() -> tuple[Advertiser, ...]:
    """One for each of the first verticals, every third with a frequency cap; the last one wants look-alikes."""
    everyone = tuple(
        Advertiser(VERTICALS[k][0].replace("_", "-"), k, CLICK_MICROS, capped=12 * (k % 3 == 0))
        for k in range(ADVERTISED)
    )
    first = everyone[AUDIENCE_VERTICAL]
    return (*everyone, Advertiser(first.name, first.vertical, CLICK_MICROS, audience=f"{first.name}/{AUDIENCE}"))


def portfolio(of: Sequence[Advertiser]) -> str:
    """The campaign file (TOML) of some advertisers."""
    return "\n".join(_campaign(advertiser) for advertiser in of)


def _campaign(advertiser: Advertiser) -> str:
    name, category = VERTICALS[advertiser.vertical]
    domain = f"{advertiser.name}-shop.example"
    lines = [
        "[[campaign]]",
        f'id = "{advertiser.campaign}"',
        f'advertiser = "{advertiser.name}"',
        f'seat = "{advertiser.seat}"',
        f'adomain = "{domain}"',
        f'cat = ["{category}"]',
        f'interest = "interest.{name}"',
        'goal = "cpc"',
        f"price_micros = {advertiser.click_micros}",
        f"daily_budget_micros = {BUDGET_MICROS}",
    ]
    if advertiser.capped:
        lines.append(f"caps = [{{ limit = {advertiser.capped}, window_s = 86_400 }}]")
    if advertiser.audience:
        lines.append(f'targeting = {{ audiences = ["{advertiser.audience}"] }}')
    for width, height, *_ in BANNERS:
        lines += [
            "",
            "[[campaign.creatives]]",
            f'id = "{advertiser.campaign}-{width}x{height}"',
            f"w = {width}",
            f"h = {height}",
            f'image_url = "https://cdn.{domain}/{width}x{height}.png"',
            f'landing_url = "https://{domain}/offer"',
        ]
    return "\n".join(lines) + "\n"
