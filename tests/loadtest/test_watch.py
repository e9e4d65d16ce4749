from types import SimpleNamespace

import pytest

from loadtest import watch
from loadtest.watch import Place, Watch, watching


class Hands:
    """A clock that shows what the functions under test say has passed."""

    def __init__(self) -> None:
        self.ns = 0

    def perf_counter_ns(self) -> int:
        return self.ns


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    hands = Hands()
    monkeypatch.setattr(watch, "time", hands)
    return hands


def a_bid(hands: Hands, inner_ns: int, fails: bool = False) -> SimpleNamespace:
    """`outer` takes 10 ns, calls `inner`, takes 5 more."""

    def inner(value: int) -> int:
        hands.ns += inner_ns
        if fails:
            raise KeyError(value)
        return value + 1

    def outer(value: int) -> int:
        hands.ns += 10
        found: int = steps.inner(value)
        hands.ns += 5
        return found * 2

    steps = SimpleNamespace(inner=inner, outer=outer)
    return steps


def watched(steps: SimpleNamespace) -> Watch:
    found = Watch()
    for name in ("inner", "outer"):
        setattr(steps, name, found.timed(name, getattr(steps, name)))
    return found


def test_a_function_is_charged_for_what_it_does_itself(hands: Hands) -> None:
    steps = a_bid(hands, inner_ns=100)
    found = watched(steps)
    assert [steps.outer(1), steps.outer(2), steps.inner(3)] == [4, 6, 4]
    assert found.own_ns == {"inner": 300, "outer": 30}
    assert found.calls == {"inner": 3, "outer": 2}
    assert found.passed == {"": 3, "outer": 2, "inner": 0}
    assert found.found_us(requests=2) == {"inner": 0.15, "outer": 0.015}
    found.clear()
    assert found.found_us(requests=1) == {"inner": 0.0, "outer": 0.0}


def test_what_lost_the_processor_is_charged_to_nobody(hands: Hands) -> None:
    steps = a_bid(hands, inner_ns=watch.STOLEN_NS)
    found = watched(steps)
    steps.outer(1)
    assert found.own_ns == {"inner": 0, "outer": 15}


def test_an_error_passes_and_what_led_to_it_is_counted(hands: Hands) -> None:
    steps = a_bid(hands, inner_ns=100, fails=True)
    found = watched(steps)
    with pytest.raises(KeyError):
        steps.outer(1)
    assert found.own_ns == {"inner": 100, "outer": 10}
    steps.inner = lambda value: value
    steps.outer(1)
    assert found.own_ns == {"inner": 100, "outer": 25}, "the clock is not left inside of what failed"


def test_the_cost_of_the_clocks_is_taken_off_where_it_fell(hands: Hands) -> None:
    """A clock that is read twice takes 7 ns a reading: one falls into the function, one into who called it."""

    def read() -> int:
        hands.ns += 7
        return hands.ns

    hands.perf_counter_ns = read  # type: ignore[method-assign]
    steps = a_bid(hands, inner_ns=100)
    found = watched(steps)
    found.calibrate()
    steps.outer(1)
    assert found.found_us(requests=1) == pytest.approx({"inner": 0.1, "outer": 0.015}, abs=1e-4)
    assert found.cost_us(requests=1) == pytest.approx(4 * 7 / 1000, abs=1e-4)


def test_functions_are_as_before_when_nobody_watches() -> None:
    steps = a_bid(Hands(), inner_ns=0)
    inner, outer = steps.inner, steps.outer
    places = [Place(steps, "inner", "step"), Place(steps, "outer", "step")]
    with watching(places) as found:
        assert steps.outer(1) == 4
    assert found.calls == {"step": 2}
    assert (steps.inner, steps.outer) == (inner, outer)
