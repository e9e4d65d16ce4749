"""A mistake of ours between reserving and answering costs one request: no money, no record of bids nobody got."""

import pytest

from bidder import reserving
from bidder.tokens import Signer
from dmp import events
from tests.bidder.running import CAMPAIGNS, CAPPED, body_of_user, running

TWO_IMPS = [{"id": "1"}, {"id": "2"}]


@pytest.mark.parametrize(("owner", "name"), [(reserving, "hold_s"), (Signer, "pair")])
async def test_a_defect_at_the_second_of_two_bids_leaves_nothing_of_the_first(
    owner, name, tmp_path, store, monkeypatch
):
    works, calls = getattr(owner, name), []

    def fails_at_the_second(*arguments):
        calls.append(name)
        if len(calls) == 2:
            raise KeyError(name)
        return works(*arguments)

    async with running(tmp_path, store, CAMPAIGNS + CAPPED) as bidder:
        monkeypatch.setattr(owner, name, fails_at_the_second)
        assert await bidder.bid(body_of_user(imp=TWO_IMPS)) == (204, b"")
        assert len(calls) == 2
        assert all(account.pending == 0 for account in bidder.service.budgets.accounts())
        metrics = await bidder.metrics()
        assert metrics['tagbid_errors_total{where="bid"}'] == 1
        assert not [series for series in metrics if series.startswith("tagbid_campaign_total")]
        assert metrics['tagbid_first_price_total{by="constant"}'] == 0
    assert [event for path in (tmp_path / "data" / "bidlog").iterdir() for event in events.read_file(path)] == []
