from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp import __main__ as main
from dmp import commands, keys, optout_link
from dmp.app import listening
from dmp.catalogue import open_catalogue
from dmp.config import DmpConfig
from dmp.desk import Desk
from dmp.pseudonym import key_ring
from dmp.store import read_users


@pytest.fixture
async def server(tmp_path, store, client):
    config = DmpConfig(data_dir=str(tmp_path), redis_url=store.url, port=0)
    catalogue = open_catalogue(Path(config.data_dir))
    async with (
        listening(Desk(config, catalogue, client, key_ring(tmp_path))) as url,
        aiohttp.ClientSession() as session,
    ):
        yield url, session
    catalogue.close()


def opted_out(client, uid):
    return keys.OPTED_OUT in read_users(client, [uid], 1)[0].audiences


@pytest.mark.rule("P-73")
async def test_the_link_of_a_person_opts_them_out_without_a_login_and_for_good(server, client, tmp_path, capsys):
    url, session = server
    ring = key_ring(tmp_path)
    uid, other = ring.uid("cookie", "alice"), ring.uid("cookie", "bob")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAGBID_DMP_DATA_DIR", str(tmp_path))
        assert commands.run(main.app, "tagbid dmp", ["opt-out-link", "alice", "--url", url]) == 0
    link = capsys.readouterr().out.strip()
    assert "alice" not in link
    async with session.get(link) as page:  # mail programs follow links: asking is not doing
        assert (page.status, "<form" in await page.text()) == (200, True)
    assert not opted_out(client, uid)
    for _ in range(2):
        async with session.post(link) as page:
            assert page.status == 200
        assert opted_out(client, uid)
    assert client.ttl(keys.audiences(uid)) == -1
    assert not opted_out(client, other)


def test_without_another_address_the_link_leads_where_the_door_listens(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TAGBID_DMP_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TAGBID_DMP_HOST", "::1")
    monkeypatch.setenv("TAGBID_DMP_PORT", "18100")
    assert commands.run(main.app, "tagbid dmp", ["opt-out-link", "alice"]) == 0
    assert capsys.readouterr().out.startswith("http://[::1]:18100/v1/opt-out?t=")


@pytest.mark.rule("P-73")
async def test_a_link_we_did_not_sign_does_nothing(server, client, tmp_path):
    url, session = server
    uid, other = bytes(range(16)), bytes(16)
    genuine = optout_link.token(tmp_path, uid)
    forged = optout_link.token(tmp_path, other)[:20] + genuine[20:]
    for text in ("", "x", genuine[:-1], genuine + "A", forged, "ü" * 43):
        async with session.post(f"{url}/v1/opt-out", params={"t": text}) as page:
            assert page.status == 403
    assert not client.keys("*")


@given(uid=st.binary(min_size=16, max_size=16), place=st.integers(0, 31), bit=st.integers(0, 7))
def test_a_token_names_its_user_and_no_other(tmp_path_factory, uid, place, bit):
    from base64 import urlsafe_b64decode, urlsafe_b64encode

    folder = tmp_path_factory.getbasetemp()
    made = optout_link.token(folder, uid)
    assert optout_link.uid_of(folder, made) == uid
    data = bytearray(urlsafe_b64decode(made + "="))
    data[place] ^= 1 << bit
    assert optout_link.uid_of(folder, urlsafe_b64encode(data).decode().rstrip("=")) is None
