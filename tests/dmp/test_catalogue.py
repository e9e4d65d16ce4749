import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmp.audiences import Audience, BadName
from dmp.catalogue import AlreadyThere, Catalogue, LeaseLost, UnknownAdvertiser, Upload, open_catalogue
from dmp.errors import CorruptRecord

SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND
LEASE = 60 * SECOND
UPLOAD = Upload(rows=1_000, invalid=10, distinct=900, matched=700, seed_file="seeds/1.uids")


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    opened = open_catalogue(tmp_path)
    for advertiser in ("acme", "rival"):
        opened.add_advertiser(advertiser, NOW)
    yield opened
    opened.close()


def pending(catalogue: Catalogue, advertiser: str = "acme", name: str = "spring", now_us: int = NOW) -> Audience:
    return catalogue.add_audience(advertiser, name, UPLOAD, 5.0, False, now_us)


def state(catalogue: Catalogue) -> str:
    found = catalogue.audience("acme", "spring")
    assert found is not None
    return found.state


@pytest.mark.rule("S-20")
def test_a_key_speaks_for_its_advertiser_and_is_kept_as_a_hash_only(catalogue: Catalogue, tmp_path: Path) -> None:
    key = catalogue.issue_key("acme", NOW)
    assert key.startswith("tb_")
    assert len(key) == 3 + 43  # 32 bytes as base64
    principal = catalogue.principal(key, NOW)
    assert principal is not None
    assert (principal.advertiser, principal.scopes) == ("acme", {"seeds"})
    catalogue.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert key.encode() not in stored
    assert key[12:].encode() not in stored


@pytest.mark.rule("S-20")
def test_an_unknown_expired_or_revoked_key_speaks_for_nobody(catalogue: Catalogue) -> None:
    assert catalogue.principal("tb_" + "A" * 43, NOW) is None
    short = catalogue.issue_key("acme", NOW, expires_us=NOW + SECOND)
    assert catalogue.principal(short, NOW + SECOND - 1) is not None
    assert catalogue.principal(short, NOW + SECOND) is None
    key = catalogue.issue_key("acme", NOW)
    assert catalogue.revoke_keys("rival", key, NOW) == 0
    assert catalogue.revoke_keys("acme", key, NOW) == 1
    assert catalogue.principal(key, NOW) is None


@pytest.mark.rule("S-20")
def test_the_last_use_of_a_key_is_noted(catalogue: Catalogue, tmp_path: Path) -> None:
    key = catalogue.issue_key("acme", NOW)
    catalogue.principal(key, NOW + 5)
    catalogue.principal(key, NOW + 6)
    with sqlite3.connect(tmp_path / "catalogue.sqlite") as db:
        assert db.execute("SELECT used_us FROM api_keys").fetchall() == [(NOW + 5,)]


def test_names_are_checked_and_taken_once(catalogue: Catalogue) -> None:
    with pytest.raises(AlreadyThere):
        catalogue.add_advertiser("acme", NOW)
    with pytest.raises(BadName):
        catalogue.add_advertiser("../acme", NOW)
    with pytest.raises(UnknownAdvertiser, match="advertisers add nobody"):
        catalogue.issue_key("nobody", NOW)
    with pytest.raises(UnknownAdvertiser):
        pending(catalogue, "nobody")
    pending(catalogue)
    with pytest.raises(AlreadyThere):
        pending(catalogue)
    pending(catalogue, "rival")


@pytest.mark.rule("S-21")
def test_an_audience_exists_for_its_own_advertiser_only(catalogue: Catalogue) -> None:
    pending(catalogue)
    assert catalogue.audience("rival", "spring") is None
    assert catalogue.audiences("rival") == []
    assert [a.id for a in catalogue.audiences("acme")] == ["acme/spring"]


def test_two_names_with_one_number_are_refused(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmp.keys.number", lambda name: 7)
    pending(catalogue)
    with pytest.raises(AlreadyThere, match="choose another name"):
        pending(catalogue, "rival")


def test_the_life_of_an_audience(catalogue: Catalogue) -> None:
    assert pending(catalogue).state == "pending"
    claimed = catalogue.claim("w1", NOW, LEASE)
    assert claimed is not None
    assert (claimed.id, claimed.state, claimed.attempts) == ("acme/spring", "expanding", 1)
    catalogue.plan(claimed.id, "w1", "members/1.uids", NOW + 100, {"auc": 0.8}, NOW)
    catalogue.make_live(claimed.id, "w1", 123, NOW + 1)
    live = catalogue.audience("acme", "spring")
    assert live is not None
    assert (live.state, live.members, live.report) == ("live", 123, {"auc": 0.8})
    assert catalogue.expire(NOW + 99) == []
    assert [a.id for a in catalogue.expire(NOW + 100)] == ["acme/spring"]
    assert state(catalogue) == "expired"
    assert pending(catalogue).state == "pending"  # an expired name is free again


def test_a_refused_name_is_free_again_and_its_message_stays_until_then(catalogue: Catalogue) -> None:
    pending(catalogue)
    catalogue.claim("w1", NOW, LEASE)
    catalogue.refuse("acme/spring", "w1", "too few", NOW)
    found = catalogue.audience("acme", "spring")
    assert found is not None
    assert (found.state, found.message) == ("refused", "too few")
    assert catalogue.claim("w1", NOW + 2 * LEASE, LEASE) is None
    assert pending(catalogue).message == ""


def test_the_oldest_pending_audience_is_taken_first_and_by_one_worker(catalogue: Catalogue) -> None:
    pending(catalogue, name="younger", now_us=NOW + 1)
    pending(catalogue, name="older", now_us=NOW)
    taken = [catalogue.claim(worker, NOW + 2, LEASE) for worker in ("w1", "w2", "w3")]
    assert [a.name if a else None for a in taken] == ["older", "younger", None]


def test_a_lease_that_ran_out_is_taken_over_and_the_first_worker_can_write_no_more(catalogue: Catalogue) -> None:
    pending(catalogue)
    catalogue.claim("w1", NOW, LEASE)
    assert catalogue.claim("w2", NOW + LEASE - 1, LEASE) is None
    catalogue.renew("acme/spring", "w1", NOW + LEASE - 1, LEASE)
    assert catalogue.claim("w2", NOW + LEASE, LEASE) is None
    taken = catalogue.claim("w2", NOW + 2 * LEASE, LEASE)
    assert taken is not None
    assert taken.attempts == 2
    for late_write in (
        lambda: catalogue.renew("acme/spring", "w1", NOW, LEASE),
        lambda: catalogue.plan("acme/spring", "w1", "members/w1.uids", 0, {}, NOW),
        lambda: catalogue.make_live("acme/spring", "w1", 1, NOW),
        lambda: catalogue.refuse("acme/spring", "w1", "", NOW),
    ):
        with pytest.raises(LeaseLost):
            late_write()
    assert state(catalogue) == "expanding"
    catalogue.make_live("acme/spring", "w2", 1, NOW)


def test_files_of_audiences_that_are_over_are_no_longer_kept(catalogue: Catalogue) -> None:
    pending(catalogue)
    catalogue.claim("w1", NOW, LEASE)
    catalogue.plan("acme/spring", "w1", "members/1.uids", NOW + 1, {}, NOW)
    assert catalogue.files() == {"seeds/1.uids", "members/1.uids"}
    catalogue.make_live("acme/spring", "w1", 1, NOW)
    catalogue.expire(NOW + 1)
    assert catalogue.files() == set()


@pytest.mark.rule("S-41")
def test_the_file_is_private_survives_reopening_and_refuses_another_version(tmp_path: Path) -> None:
    first = open_catalogue(tmp_path / "var")
    first.add_advertiser("acme", NOW)
    key = first.issue_key("acme", NOW)
    first.close()
    assert (tmp_path / "var").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "var" / "catalogue.sqlite").stat().st_mode & 0o777 == 0o600
    again = open_catalogue(tmp_path / "var")
    assert again.principal(key, NOW) is not None
    again.close()
    with sqlite3.connect(tmp_path / "var" / "catalogue.sqlite") as db:
        db.execute("UPDATE catalogue SET version = 2")
    with pytest.raises(CorruptRecord, match="version 2"):
        open_catalogue(tmp_path / "var")
