import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder import drawing
from bidder.budget import Account
from bidder.campaigns import Campaign
from bidder.drawing import Drawer
from bidder.pacing import Pace
from models.live import Ratio
from tests.bidder.factories import NOW_US, a_campaign, a_request, decision

MINUTE = NOW_US // 60_000_000
KNOWN = Ratio(clicks=30.0, predicted=30.0, as_of_us=NOW_US)
FRESH = Ratio(clicks=0.0, predicted=0.0, as_of_us=NOW_US, since_us=NOW_US - 1)


def clicky(name: str, **fields: object) -> Campaign:
    return a_campaign(id=name, goal="cpc", price_micros=2_000_000, **fields)


def test_draws_have_the_gamma_distribution() -> None:
    """Mean 1 and variance 1 / shape, as Gamma(C + k0, P + k0) over its mean; quantiles against scipy."""
    from scipy import stats

    u = (np.arange(4_000) + 0.5) / 4_000
    for shape in (5.0, 25.0, 220.0):
        found = np.array([drawing.draw(shape, x) for x in u])
        exact = np.clip(stats.gamma.ppf(u, shape) / shape, drawing.LOW, drawing.HIGH)
        assert np.abs(found - exact).max() < 0.02
        assert found.mean() == pytest.approx(1.0, abs=0.01)
        assert found.std() == pytest.approx(exact.std(), rel=0.02)


@given(st.floats(5, 1e6), st.floats(0, 1))
def test_no_draw_leaves_its_bounds(shape: float, u: float) -> None:
    assert drawing.LOW <= drawing.draw(shape, u) <= drawing.HIGH
    assert math.isfinite(drawing.draw(shape, u))


def test_a_minute_has_its_draws_which_come_again_in_a_replay() -> None:
    campaigns = [clicky(f"c{i}") for i in range(40)]
    states = {campaign.id: KNOWN for campaign in campaigns}
    first = drawing.factors(campaigns, states, MINUTE, seed=1)
    assert first == drawing.factors(reversed(campaigns), dict(reversed(states.items())), MINUTE, seed=1)
    assert len(set(first.values())) == 40
    assert first != drawing.factors(campaigns, states, MINUTE + 1, seed=1)
    assert first != drawing.factors(campaigns, states, MINUTE, seed=2)


def test_what_is_little_known_is_drawn_wider() -> None:
    names = [clicky(f"c{i}") for i in range(400)]

    def width(state: Ratio | None) -> float:
        states = {"other": KNOWN} | ({} if state is None else {c.id: state for c in names})
        return float(np.std(list(drawing.factors(names, states, MINUTE, 1).values())))

    # 1 / sqrt(C + k0): 1 / sqrt(5) while learning or new, 1 / sqrt(50) with thirty clicks and the prior of twenty.
    assert width(FRESH) == pytest.approx(0.447, rel=0.15)
    assert width(None) == pytest.approx(0.447, rel=0.15)
    assert width(KNOWN) == pytest.approx(0.141, rel=0.15)


def test_fixed_prices_jumps_and_the_state_of_nobody_are_not_drawn() -> None:
    campaigns = [a_campaign(id="fixed", goal="cpm"), clicky("jumped"), clicky("known")]
    states = {"fixed": KNOWN, "jumped": Ratio(30.0, 30.0, NOW_US, frozen=True), "known": KNOWN}
    assert drawing.factors(campaigns, states, MINUTE, 1).keys() == {"known"}
    assert drawing.factors(campaigns, {}, MINUTE, 1) == {}


@pytest.mark.parametrize(
    ("spent", "pending", "workers", "draws"),
    [
        (99, 0, 1, True),
        (100, 0, 1, False),
        (60, 40, 1, False),
        (60, 39, 1, True),
        (60, 20, 2, False),
        (60, 19, 2, True),
    ],
)
def test_a_tenth_of_the_budget_goes_into_exploring(spent: int, pending: int, workers: int, draws: bool) -> None:
    account = Account("fresh", NOW_US // 86_400_000_000, 1_000)
    account.spent, account.pending, account.workers = spent, pending, workers
    known = Account("known", account.day, 1_000)
    known.spent = 900
    campaigns = {name: clicky(name) for name in ("fresh", "known")}
    drawer = Drawer(1)
    drawer.tick([account, known], campaigns, {"fresh": FRESH, "known": KNOWN}, NOW_US / 1e6)
    assert ("fresh" in drawer.of) is draws
    assert "known" in drawer.of


def test_draws_are_made_once_a_minute() -> None:
    campaigns, states = {"known": clicky("known")}, {"known": KNOWN}
    drawer = Drawer(1)
    drawer.tick([], campaigns, states, MINUTE * 60)
    first = drawer.of
    drawer.tick([], campaigns, states, MINUTE * 60 + 59)
    assert drawer.of is first
    drawer.tick([], campaigns, states, MINUTE * 60 + 60)
    assert drawer.of != first


def test_a_draw_decides_who_bids_and_the_mean_what_is_bid() -> None:
    strong, weak = clicky("strong"), a_campaign(id="weak", goal="cpc", price_micros=1_800_000)
    plain = decision(a_request(), strong, weak, explore_share=0.0)
    lifted = decision(a_request(), strong, weak, explore_share=0.0, drawn={"weak": 1.5})

    def names(made: object) -> list[str]:
        return [("strong", "weak")[offer.value_micros == 1_800_000] for offer in made.offers[0]]  # type: ignore[attr-defined]

    assert names(plain) == ["strong", "weak"]
    assert names(lifted) == ["weak", "strong"]
    prices = [{offer.value_micros: offer.price_micros for offer in made.offers[0]} for made in (plain, lifted)]
    assert prices[0] == prices[1]


@given(st.lists(st.tuples(st.integers(1, 60), st.floats(1 / 3, 3.0)), min_size=2, max_size=12))
def test_the_best_draw_is_found_however_many_ads_are_scored(ads: list[tuple[int, float]]) -> None:
    """Looking at two ads at a time, best bound first, finds the ad a look at all would."""
    campaigns = [
        a_campaign(id=f"c{i:02}", goal="cpc", price_micros=price * 100_000) for i, (price, _) in enumerate(ads)
    ]
    drawn = {f"c{i:02}": factor for i, (_, factor) in enumerate(ads)}
    most = max(price * factor for price, factor in ads)
    made = decision(a_request(), *campaigns, drawn=drawn, max_candidates=2, explore_share=0.0)
    best = made.offers[0][0].value_micros
    assert any(
        best == pytest.approx(price * 100_000, rel=0.01) and price * factor >= most * 0.99 for price, factor in ads
    )


def test_who_ranks_first_below_the_floor_does_not_hide_who_is_above_it() -> None:
    """Paced to half, the weak one is worth 1.0 and ranks as 3.0; the floor is 1.5."""
    strong, weak = a_campaign(id="strong", goal="cpc", price_micros=1_800_000), clicky("weak")
    paces = {"weak": Pace(0.5, 1.0)}
    request = a_request(imp={"bidfloor": 1.5})
    made = decision(request, strong, weak, explore_share=0.0, drawn={"weak": 3.0}, paces=paces)
    assert [offer.value_micros for offer in made.offers[0]] == [1_800_000]
