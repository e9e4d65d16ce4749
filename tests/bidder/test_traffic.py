import json

import pytest

from bidder import serving, traffic
from bidder.config import BidderConfig
from bidder.reasons import Reason
from bidder.traffic import in_networks, is_bot, load
from dmp.errors import ConfigError
from tests.bidder.factories import a_request, decision
from tests.bidder.running import body, running
from tests.bidder.test_app import eventually


def tables(tmp_path, **files):
    """Settings whose tables hold these files: `networks`, or a name in ads_txt or sellers."""
    settings = {}
    if "networks" in files:
        (tmp_path / "networks").write_text(files["networks"])
        settings["datacenter_networks"] = str(tmp_path / "networks")
    for key, setting in (("ads_txt", "ads_txt_dir"), ("sellers", "sellers_json_dir")):
        for name, text in files.get(key, {}).items():
            (tmp_path / key).mkdir(exist_ok=True)
            (tmp_path / key / name).write_text(text)
            settings[setting] = str(tmp_path / key)
    return settings


def chain(*nodes, complete=1):
    return {"schain": {"complete": complete, "nodes": [{"asi": asi, "sid": sid, "hp": 1} for asi, sid in nodes]}}


NETWORKS = "# clouds\n203.0.113.0/25\n203.0.113.128/25  # next to it\n2001:db8::/32\n\n198.51.100.7\n"


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("203.0.113.0", True),
        ("203.0.113.255", True),
        ("203.0.114.0", False),
        ("203.0.112.255", False),
        ("198.51.100.7", True),
        ("198.51.100.8", False),
        ("2001:db8::1", True),
        ("2001:db9::", False),
        ("::ffff:203.0.113.9", True),  # an IPv4 address as a server of both kinds sees it
        ("::cb00:7105", False),  # the digits of an IPv4 address in an IPv6 one
        ("no address", False),
        ("", False),
        (None, False),
    ],
)
def test_addresses_are_found_in_the_networks_of_a_file(tmp_path, address, inside):
    found = load(BidderConfig(**tables(tmp_path, networks=NETWORKS)))
    assert len(found.starts) == 3  # neighbours are one range
    assert in_networks(found, (address,)) is inside


def test_a_line_nobody_can_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match="line 2"):
        load(BidderConfig(**tables(tmp_path, networks="10.0.0.0/8\n10.0.0.0/99\n")))


def test_a_change_in_any_table_is_seen(tmp_path):
    settings = BidderConfig(
        **tables(tmp_path, networks=NETWORKS, ads_txt={"news.example.txt": ADS_TXT}, sellers={"a.example.json": "{}"})
    )
    seen = {serving.fingerprint(settings)}
    (tmp_path / "networks").write_text(NETWORKS + "192.0.2.0/24\n")
    seen.add(serving.fingerprint(settings))
    (tmp_path / "ads_txt" / "news.example.txt").write_text(ADS_TXT + "c.example, 1, DIRECT\n")  # in place
    seen.add(serving.fingerprint(settings))
    (tmp_path / "ads_txt" / "other.example.txt").write_text(ADS_TXT)
    seen.add(serving.fingerprint(settings))
    (tmp_path / "sellers" / "a.example.json").unlink()
    seen.add(serving.fingerprint(settings))
    assert len(seen) == 5
    assert serving.fingerprint(settings) in seen


async def test_a_running_bidder_takes_a_new_list_of_networks(tmp_path, store):
    device = {"ip": "192.0.2.9", "geo": {"country": "USA"}}
    found = tables(tmp_path, networks=NETWORKS)
    async with running(tmp_path, store, reload_s=0.02, **found) as bidder:
        assert (await bidder.bid(body(device=device)))[0] == 200
        (tmp_path / "networks").write_text(NETWORKS + "192.0.2.0/24\n")

        async def refused():
            await bidder.bid(body(device=device))
            return (await bidder.metrics())['tagbid_no_bid_total{reason="datacenter"}'] > 0

        await eventually(refused)


def test_data_centres_get_no_bid(tmp_path):
    settings = tables(tmp_path, networks=NETWORKS)
    for device, reason in (({"ip": "203.0.113.9"}, Reason.DATACENTER), ({"ip": "192.0.2.1"}, Reason.BID)):
        assert decision(a_request(device=device), **settings).reason is reason


ADS_TXT = "# seller list\nA.example, 77, DIRECT, abc\nb.example , 5 , RESELLER\ncontact=x@y\nbroken line\n"


@pytest.mark.parametrize(
    ("domain", "nodes", "reason"),
    [
        ("news.example", [("a.example", "77")], Reason.BID),
        ("www.news.example", [("a.example", "78")], Reason.ADS_TXT),
        ("news.example", [("a.example", "78")], Reason.ADS_TXT),
        ("news.example", [("owner.example", "1"), ("b.example", "5")], Reason.BID),
        ("sport.news.example", [("c.example", "77")], Reason.ADS_TXT),
        ("other.example", [("c.example", "77")], Reason.BID),  # no ads.txt is known of it
        ("news.example", [], Reason.BID),  # nobody says who sells
    ],
)
def test_a_seller_must_stand_in_the_ads_txt_of_the_domain(tmp_path, domain, nodes, reason):
    settings = tables(tmp_path, ads_txt={"news.example.txt": ADS_TXT})
    request = a_request(site={"domain": domain}, source=chain(*nodes))
    assert decision(request, **settings).reason is reason


@pytest.mark.parametrize(
    ("node", "reason"),
    [(("a.example", "1"), Reason.BID), (("A.example", "2"), Reason.SCHAIN_NODE), (("b.example", "2"), Reason.BID)],
)
def test_a_seller_must_stand_in_the_sellers_json_of_its_system(tmp_path, node, reason):
    sellers = json.dumps({"sellers": [{"seller_id": "1", "seller_type": "PUBLISHER"}]})
    settings = tables(tmp_path, sellers={"a.example.json": sellers})
    assert decision(a_request(source=chain(node)), **settings).reason is reason


def test_what_is_no_sellers_json_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"is no sellers\.json"):
        load(BidderConfig(**tables(tmp_path, sellers={"a.example.json": "{}"})))


@pytest.mark.parametrize(
    ("ua", "bot"),
    [
        ("Mozilla/5.0 (compatible; bingbot/2.0)", True),
        ("Mozilla/5.0 HeadlessChrome/120.0", True),
        ("curl/8.0", True),
        ("python-requests/2.31", True),
        ("AdsBot-Google (+http://www.google.com/adsbot.html)", True),
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/120.0 Safari/537.36", False),
        ("Mozilla/5.0 (Linux; Android 9; CUBOT X19) Chrome/100.0", False),
        ("", False),
    ],
)
def test_machines_that_say_so_are_known(ua, bot):
    assert is_bot(ua) is bot


def test_the_newest_place_of_the_chain_is_read_first():
    request = a_request(source={**chain(complete=1), "ext": chain(complete=0)}, ext=chain(complete=0))
    assert traffic.supply_chain(request).complete == 1
