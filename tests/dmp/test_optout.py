import time

import pytest
from typer.testing import CliRunner

from dmp import keys
from dmp.__main__ import app
from dmp.audiences import add_members
from dmp.codec import encode_contacts, encode_profile
from dmp.optout import clear_marks, set_marks
from dmp.pseudonym import KeyRing, load_key
from dmp.realtime import Parts
from dmp.realtime import encode as encode_realtime
from dmp.schema import Contact, Tag
from dmp.store import read_users

UID = bytes(range(16))
NOW_S = int(time.time())


def user(client):
    (found,) = read_users(client, [UID], NOW_S)
    return found


@pytest.mark.rule("P-32")
def test_an_opt_out_takes_the_place_of_everything_bids_read(client):
    client.set(keys.GENERATION, 1)
    client.set(keys.profile(UID, 0), encode_profile(1, [Tag(1019, 80, 20_000, 1)]))
    client.set(keys.realtime(UID), encode_realtime(Parts(nonce=bytes(8))))
    client.set(keys.realtime_marks(UID), b"m")
    client.set(keys.contacts(UID), encode_contacts([Contact(1, NOW_S // 3600, 2)]))
    add_members(client, "acme/buyers", [UID], NOW_S + 3600)
    assert user(client).tags
    assert user(client).contacts
    assert user(client).realtime
    set_marks(client, UID, {keys.OPTED_OUT})
    assert (user(client).tags, user(client).contacts, user(client).realtime) == ({}, (), None)
    assert client.get(keys.realtime_marks(UID)) is None
    assert user(client).audiences == {keys.OPTED_OUT}
    assert client.ttl(keys.audiences(UID)) == -1, "it has no end"


@pytest.mark.rule("P-32")
def test_an_opt_out_stays_beside_later_audiences_and_other_marks(client):
    set_marks(client, UID, {keys.CHILD})
    set_marks(client, UID, {keys.OPTED_OUT})
    add_members(client, "acme/buyers", [UID], NOW_S + 3600)
    assert user(client).audiences == {keys.OPTED_OUT, keys.CHILD, keys.number("acme/buyers")}
    assert client.ttl(keys.audiences(UID)) == -1
    set_marks(client, UID, {keys.OPTED_OUT})
    assert user(client).audiences == {keys.OPTED_OUT, keys.CHILD}
    clear_marks(client, UID, {keys.OPTED_OUT})
    assert user(client).audiences == {keys.CHILD}
    clear_marks(client, UID, {keys.CHILD})
    clear_marks(client, UID, {keys.CHILD})
    assert not client.exists(keys.audiences(UID))


@pytest.mark.rule("P-32")
def test_the_command_marks_the_pseudonym_of_an_id(client, store, tmp_path):
    config = tmp_path / "tagbid.toml"
    config.write_text(f'[dmp]\ndata_dir = "{tmp_path}"\nredis_url = "{store.url}"\n')
    run = CliRunner().invoke
    given = ["opt-out", "someone", "--id-type", "cookie", "--config", str(config)]
    uid = KeyRing(load_key(tmp_path / "pseudonym.key")).uid("cookie", "someone")
    assert uid is not None
    for more, marks in ((["--child"], {keys.CHILD}), ([], {keys.OPTED_OUT, keys.CHILD}), (["--undo"], {keys.CHILD})):
        found = run(app, given + more, catch_exceptions=False)
        assert found.exit_code == 0
        assert "someone" not in found.stdout, "the console shows no ids"
        (marked,) = read_users(client, [uid], NOW_S)
        assert marked.audiences == marks
