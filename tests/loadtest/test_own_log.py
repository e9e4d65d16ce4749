"""A bid log of ours, replayed: hand-made logs whose auctions are known."""

import math
from pathlib import Path

import numpy as np
import pytest

from dmp.events import Bid, Click, Event, Loss, Win
from loadtest import own_log
from loadtest.replay import NoReplay
from models import landscape, landscape_train
from models.context import Context, encode_context
from models.landscape import Terms
from models.landscape_fit import ABOVE, BELOW, EXACT
from tests.models.price_world import a_log, a_market, bids_of
from tests.stored import encode_all

HOUR_US = 3_600_000_000
BORN_US = 20_000 * 24 * HOUR_US
CONTEXT = Context(exchange="x", domain="site.example", width=300, height=250)


def a_bid(n: int, price: int, value: int = 4_000_000, **fields: object) -> Bid:
    return Bid(
        event_id=f"b{n}", time_us=BORN_US + n * 60_000_000, exchange="x", auction_id=f"a{n}", imp_id="1", campaign="c",
        creative="k", price_micros=price, value_micros=value,
        context=encode_context(CONTEXT), **{"at": 2, "pctr": 0.01, **fields},
    )  # fmt: skip


def notice(kind: type, n: int, **fields: object) -> Event:
    return kind(
        event_id=f"b{n}:{kind.__name__.lower()}", bid_id=f"b{n}", imp_id="1", time_us=BORN_US + n * 60_000_000 + 1,
        campaign="c", creative="k", exchange="x", **fields,
    )  # fmt: skip


def second_price_log(folder: Path, n: int = 1_000, seed: int = 1) -> tuple[Path, np.ndarray]:
    """Auctions a minute apart, prices 1 to 3 dollars; our bid of 2 wins half of them, losses are told the price."""
    rng = np.random.default_rng(seed)
    m = rng.integers(1_000_000, 3_000_000, n)
    logged: list[Event] = []
    for i in range(n):
        logged.append(a_bid(i, 2_000_000))
        if m[i] <= 2_000_000:
            logged += [notice(Win, i, price_micros=int(m[i]))] + [notice(Click, i)] * (i % 50 == 0)
        else:
            logged.append(notice(Loss, i, reason=102, min_to_win_micros=int(m[i])))
    folder.mkdir(exist_ok=True)
    (folder / "bids-1.mpk").write_bytes(encode_all(logged))
    return folder, m


def test_the_auctions_are_those_of_the_log(tmp_path) -> None:
    folder, m = second_price_log(tmp_path / "log", 400)
    found = own_log.read(folder)
    assert [auction.known for auction in found] == m.tolist()
    assert {auction.kind for auction in found} == {EXACT}
    won = m <= 2_000_000
    assert [auction.clicked is not None for auction in found] == won.tolist()
    assert sum(bool(a.clicked) for a in found) == sum(won[::50])
    assert sum(a.paid for a in found) == m[won].sum()


def test_the_whole_budget_buys_at_least_what_the_log_bought_and_a_part_is_never_overspent(tmp_path) -> None:
    folder, m = second_price_log(tmp_path / "log", 4_000)
    found = list(own_log.figures(own_log.read(folder), None, 0.85))
    figures = {figure.metric: figure for figure in found if figure.data == "c, second price"}
    whole = figures["expected clicks at 1 of what the log spent"]
    logged = whole.about["logged"]
    assert logged["spent_micros"] == pytest.approx(m[2_000:][m[2_000:] <= 2_000_000].sum() / 1000, rel=1e-3)
    # Every impression has the same value and a constant bid was right: nothing more is to be had for the money.
    assert whole.value == pytest.approx(logged["expected_clicks"], rel=0.05)
    assert whole.about["unsure_share"] == 0
    assert all(figure.met for figure in found)
    one_bid = [f for f in found if (f.data, f.metric) == ("c, second price, one bid", whole.metric)]
    assert [f.value for f in one_bid] == [pytest.approx(whole.value, rel=0.05)]
    eighth = figures["expected clicks at 0.125 of what the log spent"]
    assert eighth.about["budget_used"] > 0.9
    # The cheapest first: an eighth of the money buys more than an eighth of the clicks.
    assert eighth.value > logged["expected_clicks"] / 8


def test_for_the_same_money_a_multiple_of_the_value_buys_more_than_one_bid_where_values_differ(tmp_path) -> None:
    """Half of the impressions are worth, and clicked, nine times as often as the others, at the same prices."""
    rng = np.random.default_rng(3)
    logged: list[Event] = []
    for i in range(4_000):
        worth = 9 if i % 2 else 1
        logged.append(a_bid(i, 9_000_000, value=worth * 1_000_000, pctr=worth / 1_000))
        logged.append(notice(Win, i, price_micros=int(rng.integers(500_000, 3_000_000))))
    (tmp_path / "bids-1.mpk").write_bytes(encode_all(logged))
    quarter = {
        figure.data.removeprefix("c, second price"): figure.value
        for figure in own_log.figures(own_log.read(tmp_path), None, 0.85)
        if "0.25" in figure.metric
    }
    # Prices are even between .5 and 3: a bid of b costs (b^2 - .25) / 5 an auction, and the money is .4375 an auction.
    one_bid = 2_000 * 0.005 * (math.sqrt(5 * 0.4375 + 0.25) - 0.5) / 2.5
    rich_only = 1_000 * 0.009 * (math.sqrt(5 * 0.875 + 0.25) - 0.5) / 2.5
    assert quarter[", one bid"] == pytest.approx(one_bid, rel=0.03)
    for name in ("", ", linear", ", paced linear"):
        assert quarter[name] == pytest.approx(rich_only, rel=0.03)


@pytest.mark.parametrize(
    ("kind", "price", "won", "sure"),
    [
        (EXACT, 2e6, True, True),
        (EXACT, 2e6 - 1, False, True),
        (BELOW, 2e6, True, True),
        (ABOVE, 2e6, False, True),
        (BELOW, 1e6, False, False),  # nobody knows, and without a landscape that is no win
        (ABOVE, 9e6, False, False),
    ],
)
def test_what_notices_tell_of_the_price_decides(kind: int, price: float, won: bool, sure: bool) -> None:
    auction = own_log.Auction(a_bid(1, 2_000_000), CONTEXT, 2e6, kind, None, 0)
    assert own_log.result(auction, price, Terms(0.85)) == (won, sure)


@pytest.mark.parametrize(("kind", "price"), [(BELOW, 1.5e6), (ABOVE, 3e6)])
def test_what_they_do_not_tell_the_landscape_decides_by_the_chance_given_what_is_known(kind: int, price: float) -> None:
    on = Terms(0.85, mu=math.log(2e6), spread=0.5)
    auctions = [own_log.Auction(a_bid(n, 2_000_000), CONTEXT, 2e6, kind, None, 0) for n in range(4_000)]
    won = np.mean([own_log.result(auction, price, on)[0] for auction in auctions])
    # P(m <= 1.5 | m <= 2) and P(m <= 3 | m > 2) of a log-normal around 2 with spread .5: half lies on either side.
    phi = landscape.phi(math.log(price / 2e6) / 0.5)
    expected = phi / 0.5 if kind == BELOW else (phi - 0.5) / 0.5
    assert won == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 4_000))


def test_first_price_auctions_are_shaded_by_the_landscape_and_earn_more_than_the_log(tmp_path) -> None:
    market = a_market(6_000)
    folder = a_log(tmp_path / "log", market, told=1.0)
    data = landscape_train.observations(folder)
    root = tmp_path / "models"
    assert landscape_train.train(data, root, now_us=BORN_US).version
    auctions = own_log.read(folder)
    (figure,) = [
        figure
        for figure in own_log.figures(auctions, landscape.load(root), 0.85)
        if figure.metric == "expected clicks at 1 of what the log spent" and figure.data.endswith("first price")
    ]
    assert figure.about["unsure_share"] > 0.1
    bids = bids_of(market)[3_000:]
    won = bids >= market.m[3_000:]
    logged = ((bids / 0.85 - bids)[won]).sum() / 1000
    assert figure.about["surplus_micros"] > 1.1 * logged  # against a constant .85 of the value


def test_prices_varied_by_chance_tell_what_other_bids_would_earn_or_why_not(tmp_path) -> None:
    """Worth 4 dollars, m always 1.9: below a factor of .95 around 2 nothing is won, above it less is kept."""
    rng = np.random.default_rng(2)
    logged: list[Event] = []
    for n in range(3_000):
        explored = float(rng.uniform(-0.3, 0.3))
        price = int(2_000_000 * math.exp(explored))
        logged.append(a_bid(n, price, at=1, explored=explored, propensity=0.01))
        won = price >= 1_900_000
        logged.append(
            notice(Win, n, price_micros=price) if won else notice(Loss, n, reason=102, min_to_win_micros=1_900_000)
        )
    (tmp_path / "bids-1.mpk").write_bytes(encode_all(logged))
    low, middle, high = own_log.varied(own_log.read(tmp_path))
    assert low.value == 0
    # E[4 - 2 e^u; u > ln .95] over [-.1, .1], and E[4 - 2 e^u] over [.1, .3], in dollars.
    assert middle.value / 1e6 == pytest.approx(
        (4 * (0.1 - math.log(0.95)) - 2 * (math.exp(0.1) - 0.95)) / 0.2, abs=4 * middle.se / 1e6
    )
    assert high.value / 1e6 == pytest.approx((4 * 0.2 - 2 * (math.exp(0.3) - math.exp(0.1))) / 0.2, abs=0.02)
    few = list(own_log.varied(own_log.read(tmp_path)[:300]))
    assert all("observations" in figure.about["refused"] for figure in few)


def test_a_log_too_short_to_learn_from_is_refused_with_what_to_do(tmp_path) -> None:
    folder, _ = second_price_log(tmp_path / "log", 60)
    with pytest.raises(NoReplay, match="100 auctions"):
        list(own_log.figures(own_log.read(folder), None, 0.85))
