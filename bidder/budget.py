"""Daily budgets as leases: every bid reserves what it can cost before it is sent, so nothing is spent twice.

Per campaign day, always: spent + leases + free = budget, kept by `budget.lua` and `notices.lua` in one hash. A
worker's lease is what it may have at stake; locally it splits into pending (bids sent, not settled) and the rest.
Reserving is a comparison and an addition; leases are topped up off the bid path.

The lease in the store is the truth. Every reply about it, of a top-up or of a notice, replaces what the worker
believes; replies come in the order of the store's work because all of them use one `dmp.lookup.Link`. A lost reply is
therefore made good by the next one. Pending is the worker's own: a bid leaves it when its notice of record or its
loss is booked here, else after its hold time. It is kept as one sum per second of release, not per bid, because
at 10,000 bids a second and 10 minutes of hold a record per bid would be a gigabyte.

Overspend is the sum of bills that arrive after their hold, 0 when none does. A worker that dies takes its lease out
of play until the lease expires (`LEASE_S` + the longest hold among its bids), then it is free again: underspend for
that long. With the store gone, a worker spends what it holds for at most `LEASE_S`, then stops. The day is the
store's, in UTC. In a cluster a lease counts as far as a replica has it (`bidder.copies`).
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import redis.exceptions

from bidder.copies import Copies
from dmp import keys
from dmp.link import Link
from dmp.wire import encode

LEASE_S = 60
DAY_S = 86_400
NO_LIMIT = 10**15  # micros a day: a billion dollars
KEEP_S = 8 * DAY_S
SHARE = 10  # a lease's free part is at least this fraction of the budget
AHEAD_S = 5.0  # and enough for this long at the present rate
RENEW_S = 15.0
STEP = 200  # campaigns, between two turns of the loop
SCRIPT = (Path(__file__).parent / "budget.lua").read_text()
SHA1 = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


def cost_micros(price_micros: int) -> int:
    """What one impression costs at a CPM price, rounded half up.

    >>> cost_micros(2_500_000), cost_micros(1_499), cost_micros(1_500)
    (2500, 1, 2)
    """
    return (price_micros + 500) // 1000


class Account:
    """One campaign day as this worker sees it; money in micros.

    lease: as last told by the store. safe: so much of it no lost server can take back; securing: so much is being asked
    about, None = nothing. pending: at stake in bids. ended: held until a while ago; another worker may have
    booked its bill, so it is ours again when the store says so. returning: offered back, not confirmed yet. refused:
    the smallest amount that could not be reserved since there was last money for it, 0 for none. largest: the most
    that was ever refused. hold_s: the longest hold asked for, covered_s: the longest that the lease's expiry allows.
    workers: how many hold a lease, this one included; those that died count until their lease expires.
    """

    __slots__ = (
        "again", "budget", "campaign", "covered_s", "day", "ended", "free", "hold_s", "largest", "lease", "pending",
        "refused", "release", "reserved", "returning", "safe", "securing", "shrink", "spent", "synced_s", "syncing",
        "target", "workers",
    )  # fmt: skip

    def __init__(self, campaign: str, day: int, budget: int) -> None:
        self.campaign = campaign
        self.day = day
        self.budget = budget
        self.lease = self.safe = self.pending = self.ended = self.returning = self.spent = self.free = 0
        self.refused = self.largest = 0
        self.reserved = 0  # since the last tick
        self.target = -(-budget // SHARE)
        self.hold_s = self.covered_s = 0
        self.release: dict[int, int] = {}
        self.shrink = False  # the budget was lowered: first hand back all that is not at stake
        self.syncing = self.again = False
        self.synced_s = 0.0
        self.workers = 1
        self.securing: int | None = None

    @property
    def available(self) -> int:
        return min(self.lease, self.safe) - self.pending - self.ended - self.returning

    def lowered(self) -> None:
        """The lease may have become less: what it grows by from here on is not safe yet."""
        self.safe = min(self.safe, self.lease)
        self.securing = None if self.securing is None else min(self.securing, self.lease)


class Budgets:
    """The budgets of one worker. worker: 8 characters, never used by another process (`tokens.Token.worker`).

    hold_s: how long bids are usually held; a longer hold costs a campaign day one refused bid. copies: of a store with
    replicas. Not safe to share between threads.
    """

    def __init__(
        self,
        link: Link,
        worker: str,
        hold_s: int,
        clock: Callable[[], float] = time.time,
        lease_s: int = LEASE_S,
        copies: Copies | None = None,
    ) -> None:
        self.worker = worker
        self.version = 0
        """Changes whenever `exhausted` does."""
        self.exhausted: set[str] = set()
        self._link = link
        self._copies = copies
        self._clock = clock
        self._hold_s = hold_s
        self._lease_s = lease_s
        self._offset_s = 0.0
        self._questions = 0
        self._budgets: dict[str, int] = {}
        self._known: dict[str, int] = {}
        self._day = self.now_s() // DAY_S
        self._accounts: dict[str, Account] = {}
        self._earlier: dict[tuple[str, int], Account] = {}
        self._due: dict[int, list[Account]] = {}  # who has something to release at a second

    def now_s(self) -> int:
        """Unix seconds on the store's clock, which all workers share."""
        return int(self._clock() + self._offset_s)

    def configure(self, budgets: Mapping[str, int]) -> None:
        """The campaigns that may spend and their daily budgets; others return what they hold."""
        for _ in self.configuring(budgets):
            pass

    def configuring(self, budgets: Mapping[str, int]) -> Iterator[None]:
        """As `configure`, in steps of up to `STEP` campaigns: 10,000 new ones take 70 ms."""
        self._budgets = dict(budgets)
        self.know(budgets)
        for number, (campaign, budget) in enumerate(budgets.items()):
            if number % STEP == STEP - 1:
                yield
            account = self._accounts.get(campaign)
            if account is None:
                account = self._accounts[campaign] = Account(campaign, self._day, budget)
                account.hold_s = self._hold_s
            elif account.budget != budget:
                account.shrink = budget < account.budget
                account.budget = budget
                account.target = -(-budget // SHARE)
            else:
                continue
            self._sync(account, again=True)
        for campaign, account in self._accounts.items():
            if campaign not in budgets and account.budget:
                account.budget = account.target = 0
                account.shrink = True
                self._sync(account, again=True)

    def know(self, budgets: Mapping[str, int]) -> None:
        """Daily budgets of all campaigns, also of those that may not spend now: their late bills come out of them."""
        self._known |= budgets

    def limit(self, campaign: str) -> int:
        """What a campaign's bills of a day may come to; of one nobody knows any more, whatever they do."""
        return self._budgets.get(campaign, self._known.get(campaign, NO_LIMIT))

    def active(self, campaign: str) -> bool:
        """Whether it may spend now."""
        return self._budgets.get(campaign, 0) > 0

    def reserve(self, campaign: str, micros: int, now_s: int, hold_s: int) -> bool:
        """Set aside what a bid can cost at most; False when there is not that much, and then nothing changes."""
        day = now_s // DAY_S
        if day > self._day:
            self._new_day(day)
        account = self._accounts.get(campaign)
        if account is None or day < self._day:  # a clock set back over midnight: the day that is over stays over
            return False
        available = account.available
        if hold_s > account.covered_s:
            account.hold_s = max(hold_s, account.hold_s)
            self._sync(account, again=True)  # first the lease must last as long as the bid
            return False
        if available < micros or now_s - account.synced_s > self._lease_s:
            if not account.refused or micros < account.refused:
                account.refused = micros
            account.largest = max(account.largest, micros)
            self._sync(account, again=True)
            return False
        account.pending += micros
        account.reserved += micros
        release_s = now_s + hold_s
        held = account.release.get(release_s)
        if held is None:
            self._due.setdefault(release_s, []).append(account)
            held = 0
        account.release[release_s] = held + micros
        if account.free > 0 and 2 * (available - micros) < account.target:
            self._sync(account)
        return True

    def unreserve(self, campaign: str, micros: int, now_s: int, hold_s: int) -> None:
        """Take back a reservation whose bid was not sent."""
        self._release(self._account(campaign, now_s // DAY_S), now_s + hold_s, micros)

    def settled(self, campaign: str, issued_s: int, hold_s: int, micros: int, lease: int, first: bool) -> None:
        """A notice about one of this worker's bids was booked.

        issued_s, hold_s, micros: as reserved. lease: this worker's lease after the booking. first: nothing settled this
        bid before, so its reservation ends, if its hold has not ended it already.
        """
        account = self._account(campaign, issued_s // DAY_S)
        if account is None:
            return
        account.lease = lease
        account.lowered()
        if first:
            self._release(account, issued_s + hold_s, micros)
        self._mark(account)

    def release_expired(self, now_s: int) -> None:
        """End the reservations whose hold is over."""
        for release_s in [s for s in self._due if s <= now_s]:
            for account in self._due.pop(release_s):
                amount = account.release.pop(release_s, 0)
                account.pending -= amount
                account.ended += amount
                self._sync(account, again=True)

    def tick(self, elapsed_s: float, part: int = 0, parts: int = 1) -> None:
        """Once a second for each part of the campaigns: end holds, renew and resize leases, follow the day.

        elapsed_s: since the last time for this part. part, parts: the first of `parts` is 0.
        """
        now_s = self.now_s()
        if now_s // DAY_S > self._day:
            self._new_day(now_s // DAY_S)
        self.release_expired(now_s)
        for account in self._all()[part::parts]:
            rate = account.reserved / elapsed_s
            account.reserved = 0
            active = account.budget > 0 and account.day == self._day
            account.target = max(-(-account.budget // SHARE), int(rate * AHEAD_S), account.largest) if active else 0
            if (
                account.refused
                or account.returning
                or account.ended
                or account.shrink
                or 2 * account.available < account.target
                or account.available > 2 * account.target
                or now_s - account.synced_s > RENEW_S
            ):
                self._sync(account, give_back=True)
        for key in [k for k, a in self._earlier.items() if not a.pending and not a.lease and not a.syncing]:
            del self._earlier[key]
        for campaign in [
            c for c, a in self._accounts.items() if c not in self._budgets and not a.pending and not a.lease
        ]:
            del self._accounts[campaign]

    def hand_back(self) -> None:
        """Before leaving: return everything that is not at stake."""
        for account in self._all():
            account.budget = account.target = 0
            account.shrink, account.syncing = True, False
            self._sync(account)

    def accounts(self, part: int = 0, parts: int = 1) -> list[Account]:
        """Those of today. part, parts: as of `tick`."""
        return list(self._accounts.values())[part::parts]

    def _all(self) -> list[Account]:
        return [*self._accounts.values(), *self._earlier.values()]

    def _account(self, campaign: str, day: int) -> Account | None:
        return self._accounts.get(campaign) if day == self._day else self._earlier.get((campaign, day))

    def _new_day(self, day: int) -> None:
        for account in self._accounts.values():
            account.target = 0
            self._earlier[account.campaign, account.day] = account
        self._day = day
        self._accounts = {}
        self.configure(self._budgets)

    @staticmethod
    def _release(account: Account | None, release_s: int, micros: int) -> None:
        if account is None:
            return
        held = account.release.get(release_s, 0)
        amount = min(held, micros)
        if amount == held:
            account.release.pop(release_s, None)
        else:
            account.release[release_s] = held - amount
        account.pending -= amount

    def _mark(self, account: Account) -> None:
        """Keep `exhausted` in step: a campaign is in it from a refusal that a top-up could not cure until one can."""
        dry = account.refused > 0 and account.available < account.refused
        if not dry:
            account.refused = 0
        if account.day != self._day:
            return
        if dry and account.campaign not in self.exhausted:
            self.exhausted.add(account.campaign)
            self.version += 1
        elif not dry and account.campaign in self.exhausted:
            self.exhausted.discard(account.campaign)
            self.version += 1

    def _sync(self, account: Account, again: bool = False, give_back: bool = False) -> None:
        """Ask the store for the lease we want.

        again: ask once more if a question is on its way already. give_back: return what is more than twice the
        target; only once a second, or what was granted for a bid would be gone before the next one.
        """
        if account.syncing:
            account.again = account.again or again
            return
        wanted = account.pending
        if not account.shrink:
            wanted += max(account.target, account.refused)
            if wanted < account.lease and not (give_back and account.available > 2 * account.target):
                wanted = account.lease
        # What is offered back must not be reserved while the offer is on its way.
        account.returning = max(account.returning, account.lease - wanted)
        account.syncing = True
        self._send(account, wanted, account.shrink, "EVALSHA", SHA1)

    def _send(self, account: Account, wanted: int, shrinks: bool, verb: str, script: str) -> None:
        # A budget of a campaign that left the portfolio is 0 here: then nothing is granted, and leases only shrink.
        self._questions += 1
        day = keys.spend(account.campaign, account.day)
        command = encode(
            verb, script, 1, day,
            self.worker, account.budget, wanted, self._lease_s + account.hold_s, KEEP_S,
            account.pending + account.refused, self._questions,
        )  # fmt: skip
        if not self._link.send(
            day, command, partial(self._synced, account, wanted, shrinks, account.hold_s, account.ended, verb)
        ):
            account.syncing = False

    def _synced(
        self, account: Account, wanted: int, shrinks: bool, hold_s: int, ended: int, verb: str, reply: Any
    ) -> None:
        if isinstance(reply, redis.exceptions.NoScriptError) and verb == "EVALSHA":
            self._send(account, wanted, shrinks, "EVAL", SCRIPT)
            return
        account.syncing = False
        if isinstance(reply, Exception):
            return  # `returning` stays out of play until a later reply says what the lease is
        store_s, account.lease, account.spent, account.free, account.workers = reply
        account.returning = 0
        account.ended -= ended
        account.synced_s = float(store_s)
        account.covered_s = hold_s
        self._offset_s = store_s + 0.5 - self._clock() if abs(store_s + 0.5 - self._clock()) > 1 else 0.0
        self._secure(account)
        self._mark(account)
        if account.shrink or account.again:
            account.again = False
            account.shrink = account.shrink and not shrinks
            self._sync(account)  # when shrinking: down to what is at stake, then up to what the new budget leaves

    def _secure(self, account: Account) -> None:
        """Let what was granted count, where there are replicas as soon as one of them has it."""
        key = keys.spend(account.campaign, account.day)
        if self._copies is None or not self._copies.wanted(key):
            account.safe = account.lease
            return
        account.lowered()
        if account.lease > account.safe and account.securing is None:
            account.securing = account.lease
            self._copies.sure(key, KEEP_S, partial(self._secured, account))

    def _secured(self, account: Account, copied: bool) -> None:
        secured, account.securing = account.securing or 0, None
        if copied:
            account.safe = max(account.safe, secured)
            self._mark(account)
            self._secure(account)  # more may have been granted meanwhile
