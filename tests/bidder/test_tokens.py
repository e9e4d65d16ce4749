from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder.tokens import Forged, Signer, Token, bid_id_text, load_keys, text_field

KEY, OTHER = bytes(range(32)), bytes(32)
BID_ID = bytes(range(12))
UID = bytes.fromhex("00112233445566778899aabbccddeeff")


def fields(exchange="adx", imp="1", campaign="acme", creative="acme-1", currency="USD"):
    return b"".join(map(text_field, (exchange, imp, campaign, creative, currency)))


def a_pair(signer=None, bid_id=BID_ID, uid=UID, test=False, **names):
    return (signer or Signer([KEY])).pair(bid_id, 1_700_000_000, 120, 2_500_000, fields(**names), uid, test)


def expected(**changes):
    return Token(
        **{
            "bid_id": "AAECAwQFBgcICQoL",
            "issued_s": 1_700_000_000,
            "hold_s": 120,
            "ceiling_micros": 2_500_000,
            "exchange": "adx",
            "imp_id": "1",
            "campaign": "acme",
            "creative": "acme-1",
            "currency": "USD",
            "uid": UID,
        }
        | changes
    )


@pytest.mark.rule("S-10")
def test_a_token_says_what_was_signed():
    server, browser = a_pair()
    signer = Signer([KEY])
    assert signer.read(server.decode()) == expected()
    assert signer.read(browser.decode()) == expected(browser=True)
    assert bid_id_text(BID_ID) == "AAECAwQFBgcICQoL"
    assert signer.read(server.decode()).worker == "AAECAwQF"


V1 = "AZACAPFTZXgAoCUmAAAAAAAAAQIDBAUGBwgJCgvGnEL6hvS4h5y-CIAVS5J5A2FkeAExBGFjbWUGYWNtZS0xA1VTREi7Iy9NM6BoHsAxCU6aRIY"
"""Made by version 1 with KEY; URLs with such tokens are out in the world."""


def test_bytes_of_version_1_are_still_read():
    assert Signer([KEY]).read(V1) == expected()
    data = urlsafe_b64decode(V1 + "=")
    assert data[0] == 1
    assert (
        data[2:29]
        == b"\x02"
        + (1_700_000_000).to_bytes(4, "little")
        + (120).to_bytes(2, "little")
        + (2_500_000).to_bytes(8, "little")
        + BID_ID
    )
    assert data[45:-16] == b"\x03adx\x011\x04acme\x06acme-1\x03USD"


@pytest.mark.rule("P-52")
def test_a_contextual_bid_has_no_id_in_its_urls():
    server, browser = a_pair(uid=None)
    for token in (server, browser):
        assert Signer([KEY]).read(token.decode()).uid is None
        assert len(token) < len(a_pair()[0])


def test_the_urls_of_two_bids_on_one_user_have_nothing_in_common_that_names_him():
    first = urlsafe_b64decode(a_pair(bid_id=bytes(12))[0] + b"==")
    second = urlsafe_b64decode(a_pair(bid_id=bytes(11) + b"\1")[0] + b"==")
    assert UID not in first
    assert first[29:45] != second[29:45]


@given(st.data())
def test_no_changed_character_is_accepted(data):
    token = a_pair()[0].decode()
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="ascii"))
    changed = token[:at] + other + token[at + 1 :]
    if changed != token:
        with pytest.raises(Forged):
            Signer([KEY]).read(changed)


@pytest.mark.parametrize(
    "text", ["", "=", "a", "AQ", "x" * 5000, "é", "\x00", "%00", V1[:-1], V1 + "A", V1 + "=", V1 + "\n"]
)
def test_what_is_no_token_is_forged(text):
    with pytest.raises(Forged):
        Signer([KEY]).read(text)


@given(st.binary(max_size=200))
def test_random_bytes_are_forged(data):
    with pytest.raises(Forged):
        Signer([KEY]).read(urlsafe_b64encode(data).rstrip(b"=").decode())


def test_keys_rotate_with_overlap():
    before = a_pair(Signer([OTHER]))[0].decode()
    assert Signer([KEY, OTHER]).read(before).uid == UID
    with pytest.raises(Forged):
        Signer([KEY]).read(before)


@given(st.text(max_size=40), st.text(max_size=300))
def test_any_text_fits_in_a_token(campaign, imp):
    token = Signer([KEY]).read(a_pair(campaign=campaign, imp=imp)[0].decode())
    assert token.campaign == campaign
    if len(imp.encode("utf-8", "surrogatepass")) <= 255:
        assert token.imp_id == imp


def test_the_key_is_made_once_and_the_old_one_is_kept(tmp_path):
    first = load_keys(tmp_path)
    assert load_keys(tmp_path) == first
    assert (tmp_path / "token.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "token.key").rename(tmp_path / "token.key.old")
    rotated = load_keys(tmp_path)
    assert rotated[1:] == first
    assert rotated[0] != first[0]
