from pathlib import Path

import pytest

from bidder import config
from dmp.errors import ConfigError


def loaded(tmp_path: Path, text: str) -> config.BidderConfig:
    path = tmp_path / "tagbid.toml"
    path.write_text(text)
    return config.load(path, {})


def test_an_empty_table_means_the_defaults(tmp_path: Path) -> None:
    found = loaded(tmp_path, "[bidder]\n")
    assert (found.host, found.port, found.rates, found.exchanges) == ("127.0.0.1", 8080, {"USD": 1.0}, {})
    assert config.DEFAULT_EXCHANGE.at_when_absent == 2


@pytest.mark.parametrize(
    "macro", ["${AUCTION_PRICE}", "${AUCTION_PRICE:B64}", "%%WINNING_PRICE%%", "[PRICE]", "{PRICE}"]
)
def test_a_price_macro_may_be_of_any_family(tmp_path: Path, macro: str) -> None:
    found = loaded(tmp_path, f'[bidder.exchanges.north]\nprice_macro = "{macro}"\n')
    assert found.exchanges["north"].price_macro == macro


def test_exchanges_have_settings_of_their_own(tmp_path: Path) -> None:
    found = loaded(tmp_path, '[bidder.exchanges.north]\ntoken = "s"\nevent_of_record = "win"\ndefault_tmax_ms = 80\n')
    assert found.exchanges["north"].event_of_record == "win"
    assert (found.exchanges["north"].default_tmax_ms, found.exchanges["north"].margin_ms) == (80, 20)


@pytest.mark.rule("P-13")
def test_what_we_declared_as_a_vendor_is_a_setting(tmp_path: Path) -> None:
    found = loaded(tmp_path, "[bidder]\ngvl_id = 19\ntcf_consent = [1, 2, 3, 4]\ntcf_legitimate_interest = [7, 10]\n")
    assert (found.gvl_id, found.tcf_consent, found.tcf_legitimate_interest) == (19, (1, 2, 3, 4), (7, 10))
    assert loaded(tmp_path, "").gvl_id is None


@pytest.mark.rule("S-42")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "bids.example"])  # noqa: S104 - what must be refused
def test_an_open_endpoint_is_refused_on_a_public_address(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="open_exchanges"):
        loaded(tmp_path, f'[bidder]\nhost = "{host}"\n')
    with pytest.raises(ConfigError, match=r"exchanges\.north\] token is empty"):
        loaded(tmp_path, f'[bidder]\nhost = "{host}"\nopen_exchanges = false\n[bidder.exchanges.north]\n')
    safe = f'[bidder]\nhost = "{host}"\nopen_exchanges = false\n[bidder.exchanges.north]\ntoken = "s"\n'
    assert loaded(tmp_path, safe).host == host


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("[bidder]\nprot = 1\n", "did you mean 'port'"),
        ("[bidder]\nport = 70000\n", "port"),
        ("[bidder]\nfirst_price_keep = 1.5\n", "first_price_keep"),
        ('[bidder]\ngdpr_when_unknown = "sometimes"\n', "gdpr_when_unknown"),
        ("[bidder.rates]\nEUR = 1.1\n", "USD must be 1.0"),
        ("[bidder.rates]\nUSD = 1.0\nEUR = 0\n", "rates"),
        ("[bidder.exchanges.north]\nat_when_absent = 3\n", "at_when_absent"),
        ("[bidder]\ngvl_id = 0\n", "gvl_id"),
        ("[bidder]\ngvl_id = 19\n", "no purpose is declared"),
        ("[bidder]\ntcf_consent = [1]\ntcf_legitimate_interest = [4]\n", "consent is the only basis of purpose: 4"),
        ("[bidder]\ntcf_consent = [12]\n", "purposes are 1 to 11: 12"),
        ('[bidder]\nwithout_p2 = "bid"\n', "without_p2"),
    ],
)
def test_a_wrong_table_says_what_is_wrong(tmp_path: Path, text: str, fragment: str) -> None:
    with pytest.raises(ConfigError, match=fragment):
        loaded(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ('[bidder.exchanges."ad x"]\n', "path"),
        ("[bidder.exchanges.north]\nnetwork_ms = 80\nmargin_ms = 20\n", "leave nothing"),
        ('[bidder]\npublic_url = "bids.example"\n', "public_url"),
        ("[bidder]\nreload_s = 0\n", "reload_s"),
        ('[bidder.exchanges.north]\nprice_encoding = "google"\n', 'price_unit is "micros_cpi"'),
        ('[bidder.exchanges.north]\nprice_macro = ""\n', "price_macro"),
        ("[bidder.exchanges.north]\nprice_macro = 'a\"b'\n", "price_macro"),
        ("[bidder]\nopen_exchanges = false\n", "nobody could ask"),
        ("[bidder.rates]\nUSD = 1.0\neur = 1.1\n", "'eur' is no currency"),
        (f'[bidder.exchanges.north]\nprice_encryption_key = "{"A" * 43}"\n', "only price_encoding"),
        ("[bidder]\nmax_price_micros = 0\n", "max_price_micros"),
    ],
)
def test_what_could_never_bid_is_refused_at_the_start(tmp_path: Path, text: str, fragment: str) -> None:
    with pytest.raises(ConfigError, match=fragment):
        loaded(tmp_path, text)
