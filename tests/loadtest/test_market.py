from bidder import campaigns
from loadtest import market
from loadtest.world import VERTICALS


def test_the_campaign_file_is_one_the_bidder_takes(tmp_path):
    path = tmp_path / "campaigns.toml"
    path.write_text(market.portfolio(market.advertisers()))
    portfolio = campaigns.load(path)
    assert [c.id for c in portfolio.campaigns] == [a.campaign for a in market.advertisers()]
    assert all(len(c.creatives) == len(market.BANNERS) for c in portfolio.campaigns)


def test_every_advertiser_sells_what_its_ads_speak_to_and_has_a_seat_of_its_own():
    everyone = market.advertisers()
    assert len({a.seat for a in everyone}) == len(everyone) == market.ADVERTISED + 1
    assert all(0 <= a.vertical < len(VERTICALS) for a in everyone)
    assert everyone[-1].audience == "travel/customers"
