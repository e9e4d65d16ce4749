import asyncio
import time

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from bidder.bidding import new_worker
from bidder.budget import DAY_S, RENEW_S, Budgets
from bidder.config import BidderConfig
from bidder.metrics import Metrics
from bidder.notices import Notices, Result, reserved_micros
from bidder.tokens import Signer, bid_id_text, text_field
from dmp import keys
from dmp.link import Link

HOLD_S = 120
SIGNER = Signer([bytes(32)])
CAMPAIGN = "acme"
BUDGET = 20_000  # micros


class Worker:
    """One bidder process as far as money goes."""

    def __init__(self, link, hold_s):
        self.link = link
        self.hold_s = hold_s
        self.id = new_worker()
        self.budgets = Budgets(link, bid_id_text(self.id + bytes(6))[:8], hold_s)
        self.notices = Notices(link, SIGNER, self.budgets, BidderConfig(), Metrics(), lambda make: make())
        self.bids = 0

    @classmethod
    async def start(cls, store, budget=BUDGET, hold_s=HOLD_S):
        link = Link(store.url)
        await link.start()
        worker = cls(link, hold_s)
        worker.budgets.configure({CAMPAIGN: budget})
        await worker.synced()
        return worker

    async def synced(self):
        """Replies come in order, so all that was asked before has been answered."""
        await self.link.execute("PING")
        await self.link.execute("PING")

    def bid(self, ceiling_micros, hold_s=None):
        """The token of a bid, or None without the money for it."""
        hold_s = hold_s or self.hold_s
        now_s = self.budgets.now_s()
        if not self.budgets.reserve(CAMPAIGN, reserved_micros(ceiling_micros), now_s, hold_s):
            return None
        self.bids += 1
        fields = b"".join(map(text_field, ("x", "1", CAMPAIGN, "k", "USD")))
        server, _ = SIGNER.pair(self.id + self.bids.to_bytes(6), now_s, hold_s, ceiling_micros, fields, None)
        return server.decode()

    async def tell(self, kind, token, price_micros=0):
        price = f"{price_micros // 10**6}.{price_micros % 10**6:06d}"
        return (await self.notices.book(kind, {"t": token, "p": price, "l": "102"}))[0]

    @property
    def account(self):
        return next(iter(self.budgets.accounts()))


def day():

    return int(time.time()) // DAY_S


def hash_of(client):
    found = {name.decode(): int(value) for name, value in client.hgetall(keys.spend(CAMPAIGN, day())).items()}
    return found.get("spent", 0), sum(value for name, value in found.items() if name.startswith("l:"))


async def test_a_bid_is_reserved_and_settled_at_what_it_cost(store, client):
    worker = await Worker.start(store)
    token = worker.bid(2_000_000)  # 2 dollars CPM: 2000 micros
    assert worker.account.pending == 2_000
    assert await worker.tell("win", token, 1_500_000) is Result.COUNTED
    assert worker.account.pending == 2_000  # winning is not paying
    assert await worker.tell("billing", token, 1_500_000) is Result.COUNTED
    assert worker.account.pending == 0
    spent, leased = hash_of(client)
    assert spent == 1_500
    assert leased == worker.account.lease


async def test_a_worker_knows_how_many_share_its_campaign(store, client):
    first, second = await Worker.start(store), await Worker.start(store)
    assert second.account.workers == 2
    first.budgets.hand_back()
    await first.synced()
    second.account.synced_s -= RENEW_S + 1
    second.budgets.tick(1.0)
    await second.synced()
    assert second.account.workers == 1


async def test_each_part_of_the_campaigns_has_its_own_tick_and_each_campaign_one_part(store, client):
    worker = await Worker.start(store)
    worker.budgets.configure({CAMPAIGN: BUDGET} | {f"c{i}": BUDGET for i in range(25)})
    await worker.synced()
    parts = []
    for part in range(3):
        for account in worker.budgets.accounts():
            account.synced_s -= RENEW_S + 1
        worker.budgets.tick(1.0, part, 3)
        parts.append({account.campaign for account in worker.budgets.accounts() if account.syncing})
        assert parts[-1] == {account.campaign for account in worker.budgets.accounts(part, 3)}
        await worker.synced()
    assert sorted(name for part in parts for name in part) == sorted(a.campaign for a in worker.budgets.accounts())


async def test_a_campaign_whose_budget_stays_is_left_alone_when_others_change(store, client):
    worker = await Worker.start(store)
    worker.budgets.configure({CAMPAIGN: BUDGET, "new": BUDGET})
    assert {account.campaign: account.syncing for account in worker.budgets.accounts()} == {
        CAMPAIGN: False,
        "new": True,
    }
    await worker.synced()
    steps = worker.budgets.configuring({f"c{i}": BUDGET for i in range(1_000)})
    next(steps)  # the loop turns here
    assert worker.bid(1_000_000) is not None  # of the campaign that leaves: its requests may still be on their way
    for _ in steps:
        pass
    await worker.synced()
    assert {account.lease for account in worker.budgets.accounts() if account.campaign != CAMPAIGN} == {BUDGET // 10, 0}
    assert worker.budgets.accounts()[0].lease == worker.budgets.accounts()[0].pending > 0


async def test_a_lost_bid_gives_its_money_back(store, client):
    worker = await Worker.start(store)
    token = worker.bid(200_000)
    assert await worker.tell("loss", token) is Result.COUNTED
    assert worker.account.pending == 0
    assert hash_of(client)[0] == 0


async def test_a_bill_after_a_loss_is_paid_but_frees_nobody_elses_reservation(store, client):
    worker = await Worker.start(store)
    first, other = worker.bid(100_000), worker.bid(100_000)
    await worker.tell("loss", first)
    await worker.tell("billing", first, 100_000)
    assert worker.account.pending == 100
    assert hash_of(client)[0] == 100
    assert other


async def test_a_bid_nobody_speaks_of_is_free_again_after_its_hold(store):
    worker = await Worker.start(store)
    worker.bid(100_000)
    worker.budgets.release_expired(worker.budgets.now_s() + HOLD_S - 1)
    assert worker.account.pending == 100
    worker.budgets.release_expired(worker.budgets.now_s() + HOLD_S)
    assert worker.account.pending == 0
    assert worker.account.available == worker.account.lease - 100  # unless another worker has booked its bill
    await worker.synced()
    assert worker.account.available == worker.account.lease


async def test_a_bid_is_refused_when_the_budget_is_gone_and_the_campaign_is_named(store):
    worker = await Worker.start(store, budget=1_000)
    assert worker.bid(600_000) is None  # the first lease is a fraction of the budget; this asks for more
    await worker.synced()
    assert worker.bid(600_000)
    assert worker.budgets.exhausted == set()
    version = worker.budgets.version
    assert worker.bid(600_000) is None
    await worker.synced()
    assert worker.budgets.exhausted == {CAMPAIGN}
    assert worker.budgets.version != version
    worker.budgets.release_expired(worker.budgets.now_s() + HOLD_S)
    await worker.synced()
    assert worker.budgets.exhausted == set()


async def test_a_budget_of_nothing_buys_nothing(store):
    worker = await Worker.start(store, budget=0)
    assert worker.bid(1_000) is None
    assert worker.bid(499)  # rounds to no micro at all


async def test_an_unknown_campaign_has_no_budget(store):
    worker = await Worker.start(store)
    assert not worker.budgets.reserve("other", 1, worker.budgets.now_s(), HOLD_S)


async def test_a_bid_that_is_held_longer_waits_until_the_lease_lasts_as_long(store):
    worker = await Worker.start(store)
    assert worker.bid(100_000, hold_s=600) is None
    await worker.synced()
    assert worker.bid(100_000, hold_s=600)


async def test_with_the_store_gone_a_worker_stops_after_its_lease(store):
    worker = await Worker.start(store)
    now_s = worker.budgets.now_s()
    await worker.link.close()
    assert worker.budgets.reserve(CAMPAIGN, 10, now_s + 59, HOLD_S)
    assert not worker.budgets.reserve(CAMPAIGN, 10, now_s + 62, HOLD_S)


async def test_a_lowered_budget_calls_the_lease_back(store, client):
    worker = await Worker.start(store, budget=20_000)
    assert worker.bid(1_000_000)
    worker.budgets.configure({CAMPAIGN: 5_000})
    await worker.synced()
    await worker.synced()
    assert hash_of(client)[1] <= 5_000
    assert worker.account.available <= 4_000


async def test_a_campaign_that_is_gone_returns_what_is_not_at_stake(store, client):
    worker = await Worker.start(store)
    worker.bid(100_000)
    worker.budgets.configure({})
    await worker.synced()
    assert hash_of(client) == (0, 100)


async def test_leaving_hands_back_what_is_not_at_stake(store, client):
    worker = await Worker.start(store)
    worker.bid(100_000)
    worker.budgets.hand_back()
    await worker.synced()
    assert hash_of(client) == (0, 100)


async def test_a_bill_another_worker_booked_is_not_bid_with_after_the_hold(store, client):
    worker, other = await Worker.start(store), await Worker.start(store)
    token = worker.bid(2_000_000)
    await other.tell("billing", token, 2_000_000)
    before = worker.account.lease
    worker.budgets.release_expired(worker.budgets.now_s() + HOLD_S)
    assert worker.account.available == before - 2_000
    await worker.synced()
    assert sum(hash_of(client)) <= BUDGET
    assert worker.account.available == worker.account.lease


async def test_what_is_on_its_way_back_is_not_bid_with(store, client):
    worker = await Worker.start(store)
    assert worker.bid(15_000_000) is None
    await worker.synced()
    token = worker.bid(15_000_000)
    await worker.tell("loss", token)
    assert worker.account.available >= 15_000
    worker.account.largest = 0  # as if the lease had grown with the rate of bids
    worker.budgets.tick(1.0)
    await worker.synced()
    worker.budgets.tick(1.0)
    assert worker.bid(3_000_000) is None  # 3000 micros, all but 2000 are offered back and not confirmed yet
    await worker.synced()
    assert hash_of(client) == (0, worker.account.lease)


async def test_the_lease_of_a_dead_worker_is_free_again_when_it_has_expired(store, client):
    dead, heir = await Worker.start(store), await Worker.start(store)
    key = keys.spend(CAMPAIGN, day())
    name = f"l:{dead.budgets.worker}"
    assert int(client.hget(key, name)) > 0
    heir.budgets.tick(1.0)
    await heir.synced()
    assert client.hexists(key, name)
    client.hset(key, f"x:{dead.budgets.worker}", 1)
    heir.bid(15_000_000)  # more than its lease: asks the store
    await heir.synced()
    assert not client.hexists(key, name)
    assert heir.bid(15_000_000)


async def test_a_new_day_has_a_new_budget_and_yesterdays_bids_are_paid_from_yesterdays(store, client):
    worker = await Worker.start(store)
    token = worker.bid(1_000_000) or (await worker.synced(), worker.bid(1_000_000))[1]
    tomorrow_s = worker.budgets.now_s() + DAY_S
    assert not worker.budgets.reserve(CAMPAIGN, 1, tomorrow_s, HOLD_S)  # no lease yet
    await worker.synced()
    worker.account.synced_s = tomorrow_s  # as the store would have said tomorrow
    assert worker.budgets.reserve(CAMPAIGN, 200, tomorrow_s, HOLD_S)
    assert await worker.tell("billing", token, 1_000_000) is Result.COUNTED
    assert hash_of(client)[0] == 1_000
    assert client.hget(keys.spend(CAMPAIGN, day() + 1), "spent") is None


async def test_a_clock_set_back_over_midnight_does_not_reopen_the_day(store):
    worker = await Worker.start(store)
    tomorrow_s = worker.budgets.now_s() + DAY_S
    worker.budgets.reserve(CAMPAIGN, 1, tomorrow_s, HOLD_S)
    assert not worker.budgets.reserve(CAMPAIGN, 1, tomorrow_s - DAY_S, HOLD_S)


ANY = st.integers(0, 10**6)  # which of the bids so far; how many there are depends on the store's timing

LONG_HOLD_S = 7_000
CEILINGS = st.sampled_from([3_000_000, 2_000_000, 1_500, 1_499, 1])
SHARES = st.sampled_from([1.0, 0.5, 0.0])


class Money(RuleBasedStateMachine):
    """Two workers, one budget, notices in any order at any worker, crashes, lost holds."""

    store = None

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.client = self.store.sync()
        self.client.flushall()
        self.workers = [self.run(self.a_worker()) for _ in range(2)]
        self.bids = []  # [token, ceiling, worker, state] state: open, billed, lost
        self.cost = self.late = 0

    def a_worker(self):
        return Worker.start(self.store, hold_s=LONG_HOLD_S)

    def run(self, coroutine):
        return self.runner.run(coroutine)

    async def settle(self):
        for worker in self.workers:
            await worker.synced()

    @rule(who=st.integers(0, 1), ceiling=CEILINGS, copies=st.integers(1, 12), waits=st.booleans())
    def bid(self, who, ceiling, copies, waits):
        async def bids():
            for _ in range(copies):
                if waits:
                    await self.workers[who].synced()
                token = self.workers[who].bid(ceiling)
                if token:
                    self.bids.append([token, ceiling, self.workers[who], "open"])
                await asyncio.sleep(0)

        self.run(bids())

    @rule(which=ANY, at=st.integers(0, 1), share=SHARES, copies=st.integers(1, 3))
    def bill(self, which, at, share, copies):
        if not self.bids:
            return
        bid = self.bids[which % len(self.bids)]
        token, ceiling, _, state = bid
        price = int(ceiling * share)
        results = self.run(self._bill(self.workers[at], token, price, copies))
        fresh = state != "billed"
        # Money that was given up, by a loss or the end of the hold, may have gone to other bids.
        first = (
            Result.OVER_BUDGET if Result.OVER_BUDGET in results and state in ("lost", "released") else Result.COUNTED
        )
        assert sorted(results) == sorted([first] * fresh + [Result.DUPLICATE] * (copies - fresh))
        if fresh:
            cost = (price + 500) // 1000 if first is Result.COUNTED else 0
            self.cost += cost
            if state != "open":
                self.late += cost
            bid[3] = "billed"

    async def _bill(self, worker, token, price, copies):
        return await asyncio.gather(*(worker.tell("billing", token, price) for _ in range(copies)))

    @rule(which=ANY, at=st.integers(0, 1))
    def win(self, which, at):
        if self.bids:
            self.run(self.workers[at].tell("win", self.bids[which % len(self.bids)][0], 0))

    @rule(which=ANY, at=st.integers(0, 1))
    def lose(self, which, at):
        if not self.bids:
            return
        bid = self.bids[which % len(self.bids)]
        self.run(self.workers[at].tell("loss", bid[0]))
        if bid[3] == "open":
            bid[3] = "lost"

    @rule(who=st.integers(0, 1))
    def tick(self, who):
        async def ticked():
            self.workers[who].budgets.tick(1.0)
            await self.settle()

        self.run(ticked())

    @rule(who=st.integers(0, 1))
    def hold_ends(self, who):
        worker = self.workers[who]

        async def released():
            worker.budgets.release_expired(worker.budgets.now_s() + LONG_HOLD_S)
            worker.hold_s -= 100  # time does not pass here: later bids must end at another second

        self.run(released())
        self._release(worker)

    @rule(who=st.integers(0, 1), expired=st.booleans())
    def crash(self, who, expired):
        worker = self.workers[who]
        self.run(worker.link.close())
        if expired:
            self.client.hset(keys.spend(CAMPAIGN, day()), f"x:{worker.budgets.worker}", 1)
            self._release(worker)
        self.workers[who] = self.run(self.a_worker())

    @rule(who=st.integers(0, 1))
    def break_connection(self, who):
        async def broken():
            link = self.workers[who].link
            self.workers[who].budgets.tick(1.0)
            link.lines[0].drop()
            while not link.up:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.001)

        self.run(broken())

    def _release(self, worker):
        for bid in self.bids:
            if bid[2] is worker and bid[3] == "open":
                bid[3] = "released"

    @invariant()
    def what_was_billed_is_spent_exactly_once(self):
        assert hash_of(self.client)[0] == self.cost

    @invariant()
    def nothing_is_spent_or_promised_twice(self):
        spent, leased = hash_of(self.client)
        assert spent + leased <= BUDGET + self.late
        open_micros = sum(reserved_micros(ceiling) for _, ceiling, _, state in self.bids if state == "open")
        assert spent + open_micros <= BUDGET + self.late

    def teardown(self):
        for worker in self.workers:
            self.run(worker.link.close())
        self.client.close()
        self.runner.close()


def test_no_order_of_bids_bills_losses_and_crashes_spends_more_than_the_budget(store):
    run_state_machine_as_test(
        type("Money", (Money,), {"store": store}),
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_no_order_of_bids_bills_losses_and_crashes_spends_more_than_the_budget_in_thousands_of_tries(store):
    run_state_machine_as_test(
        type("Money", (Money,), {"store": store}),
        settings=settings(
            max_examples=1_500, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
