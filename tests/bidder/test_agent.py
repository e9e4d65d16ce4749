import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bidder.agent import Agent, Info, Observation, Result
from bidder.budget import cost_micros
from bidder.supply import Prices

PRICES = Prices(np.arange(1, 101) * 10_000.0, np.full(100, 0.01))  # uniform on 10,000 to 1,000,000 CPM micros


def an_info(**fields: object) -> Info:
    base = {"budget_micros": 50_000, "auctions": 1_000.0, "prices": PRICES, "worth": (500_000.0,), "most": 1e3}
    return Info(**(base | fields))


def drive(
    agent: Agent, info: Info, values: np.ndarray, rivals: np.ndarray, told: float = 1.0
) -> tuple[int, int, float]:
    """Play second price; returns (spent, wins, value won). told: share of the outcomes the agent hears of losses."""
    agent.start(info)
    spent = wins = 0
    gained = 0.0
    for i, (value, rival) in enumerate(zip(values.tolist(), rivals.tolist(), strict=True)):
        price = agent.bid(Observation(value))
        if price is None:
            continue
        if price >= rival:
            paid = rival if info.second_price else price
            spent, wins, gained = spent + cost_micros(paid), wins + 1, gained + value
            agent.feedback(Result(True, paid))
        elif i % 10 < 10 * told:
            agent.feedback(Result(False))
    return spent, wins, gained


def a_stream(seed: int, n: int = 1_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.lognormal(13, 0.8, n), rng.choice(PRICES.levels, n).astype(int)


@pytest.mark.parametrize("budget", [2_000, 20_000, 200_000])
def test_a_budget_is_used_and_never_exceeded(budget: int) -> None:
    for seed in range(5):
        spent, _, _ = drive(Agent(), an_info(budget_micros=budget), *a_stream(seed))
        assert spent <= budget
        assert budget - spent <= max(0.03 * budget, 250)  # a quarter of the dearest impression may be left


def test_money_that_nothing_can_use_is_left() -> None:
    values, rivals = a_stream(1)
    spent, wins, _ = drive(Agent(), an_info(budget_micros=10**9), values, rivals)
    assert wins == 1_000
    assert spent == sum(cost_micros(price) for price in rivals.tolist())


def test_with_a_cap_of_one_nothing_is_bid_above_its_value() -> None:
    agent = Agent()
    agent.start(an_info(budget_micros=10**9, most=1.0))
    for value in a_stream(2)[0].tolist():
        price = agent.bid(Observation(value))
        assert price is not None
        assert price <= value + 0.5


def test_pacing_earns_more_than_spending_at_once() -> None:
    values, rivals = a_stream(3)
    _, _, paced = drive(Agent(), an_info(), values, rivals)
    spent, greedy = 0, 0.0
    for value, rival in zip(values, rivals, strict=True):
        if value >= rival and spent + cost_micros(rival) <= 50_000:
            spent, greedy = spent + cost_micros(rival), greedy + value
    assert paced > 1.2 * greedy


def test_prices_other_than_before_are_corrected_for() -> None:
    agent = Agent()
    used = []
    for seed in range(12):
        values, rivals = a_stream(seed)
        used.append(drive(agent, an_info(), values, rivals // 3)[0] / 50_000)
    assert agent.correction < 0.9  # things are cheaper than told, so less is bid
    assert min(used) > 0.97


def test_silence_about_losses_changes_nothing_that_matters() -> None:
    values, rivals = a_stream(4)
    told, silent = (drive(Agent(), an_info(), values, rivals, told=told)[2] for told in (1.0, 0.0))
    assert silent == pytest.approx(told, rel=0.05)


def test_a_floor_above_what_it_is_worth_is_not_bid_on() -> None:
    agent = Agent()
    agent.start(an_info(most=1.0))
    assert agent.bid(Observation(300_000.0, floor_micros=300_001)) is None


def test_a_first_price_bid_is_paced_first_and_shaded_second() -> None:
    seen = []

    def shade(worth: float, context: object) -> float:
        seen.append((worth, context))
        return worth / 2

    agent = Agent(shade)
    agent.start(an_info(budget_micros=10**9, second_price=False, most=1.0))
    assert agent.bid(Observation(600_000.0, context="news")) == 300_000
    assert seen == [(600_000.0, "news")]


def test_the_same_events_give_the_same_bids() -> None:
    values, rivals = a_stream(6)
    assert drive(Agent(), an_info(), values, rivals) == drive(Agent(), an_info(), values, rivals)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.tuples(st.floats(0, 1e9), st.integers(0, 10**7)), min_size=1, max_size=80))
def test_no_stream_makes_it_spend_more_than_its_budget(budget: int, stream: list[tuple[float, int]]) -> None:
    info = an_info(budget_micros=budget, auctions=float(len(stream)))
    values, rivals = (np.array(column) for column in zip(*stream, strict=True))
    assert drive(Agent(), info, values, rivals)[0] <= budget
