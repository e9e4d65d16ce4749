import secrets
from pathlib import Path

from loadtest import media_tour
from loadtest.stage import Stage


def test_every_medium_is_bid_on_and_every_campaign_has_its_funnel(tmp_path):
    portfolio = Path(media_tour.__file__).parent / "campaigns.toml"
    on = Stage(tmp_path / "media", secrets.token_bytes(32), portfolio, tmp_path / "models", {"funnel_every": "1"})
    done = []
    tour = media_tour.play(on, 6, done.append)
    assert tour.violations == []
    assert set(tour.requests) == {"banner", "video", "pod", "audio", "native"}
    assert all(tour.bids[medium] > 0 for medium in tour.requests)
    assert len(done) == 30
    sent = sum(steps.get("sent", 0) for steps in tour.funnel.values())
    assert sent >= sum(tour.bids.values())
    assert sent == sum(steps.get("billed", 0) for steps in tour.funnel.values())
    for campaign, steps in tour.funnel.items():
        taken = sum(count for step, count in steps.items() if step not in media_tour.ENDS)
        assert steps["received"] == taken + steps.get("scored", 0), campaign
