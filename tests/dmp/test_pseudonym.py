import hashlib
import hmac
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp.errors import ConfigError
from dmp.pseudonym import KeyRing, load_key, normalise, secret_file

KEY = bytes(range(32))
RING = KeyRing(KEY)
DEVICE = "6d92078a-8246-4ba4-ae5b-76104861e7dc"


@pytest.mark.rule("P-60")
def test_a_pseudonym_is_the_first_16_bytes_of_the_keyed_hash_of_type_and_id():
    expected = hmac.new(KEY, b"device\x00" + DEVICE.encode(), hashlib.sha256).digest()[:16]
    assert RING.uid("device", DEVICE) == expected
    assert RING.uid("device", DEVICE) == expected  # and again: nothing is carried over


@pytest.mark.rule("P-60")
def test_an_email_and_its_hash_meet_and_phones_too():
    hashed = hashlib.sha256(b"jane.doe@example.com").hexdigest()
    assert RING.uid("email", " Jane.Doe@Example.com ") == RING.uid("email", hashed) == RING.uid("email", hashed.upper())
    phone = hashlib.sha256(b"+491701234567").hexdigest()
    assert RING.uid("phone", "+49 (170) 123-45.67") == RING.uid("phone", phone)


def test_the_same_text_as_two_kinds_of_id_is_two_users():
    assert RING.uid("cookie", "abc") != RING.uid("login", "abc")


@pytest.mark.rule("P-61")
def test_another_key_makes_the_ids_unlinkable():
    assert RING.uid("cookie", "abc") != KeyRing(bytes(32)).uid("cookie", "abc")


@pytest.mark.rule("P-63")
@pytest.mark.parametrize(
    ("id_type", "raw"),
    [
        ("device", "00000000-0000-0000-0000-000000000000"), ("device", "0000"), ("cookie", ""), ("cookie", " \t"),
        ("cookie", "null"), ("exchange", "Undefined"), ("login", "TEST"), ("cookie", "x" * 513), ("email", "jane"),
        ("email", "a b@c.de"), ("email", "a@b"), ("phone", "12345"), ("phone", "call me"), ("phone", "1" * 16),
    ],
)  # fmt: skip
def test_what_is_no_id_has_no_pseudonym(id_type, raw):
    assert RING.uid(id_type, raw) is None


@pytest.mark.rule("P-63")
def test_ids_are_trimmed_and_uuids_lower_cased_but_nothing_else():
    assert normalise("device", f" {DEVICE.upper()}\n") == DEVICE
    assert normalise("cookie", "AbC") == "AbC"
    assert normalise("cookie", "x" * 512) is not None


@given(st.sampled_from(["cookie", "device", "exchange", "email", "phone", "login", "household"]), st.text(max_size=600))
def test_any_text_gives_a_pseudonym_or_none_and_normalising_twice_changes_nothing(id_type, raw):
    normal = normalise(id_type, raw)
    found = RING.uid(id_type, raw)
    assert (found is None) == (normal is None)
    if normal is not None:
        assert found is not None
        assert len(found) == 16
        assert normalise(id_type, normal) == normal


@pytest.mark.rule("P-61")
def test_the_key_file_is_made_once_private_and_refused_when_others_can_read_it(tmp_path):
    path = tmp_path / "deep" / "pseudonym.key"
    key = secret_file(path)
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret_file(path) == key
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        secret_file(path)


def test_a_truncated_key_file_is_refused(tmp_path):
    path = tmp_path / "pseudonym.key"
    secret_file(path)
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match=r"pseudonym\.key.*\n.*5 bytes"):
        secret_file(path)


def test_many_starters_agree_on_one_secret_and_leave_no_drafts(tmp_path):
    path = tmp_path / "data" / "pseudonym.key"
    program = (
        "import sys, pathlib as p; from dmp.pseudonym import secret_file as f; print(f(p.Path(sys.argv[1])).hex())"
    )
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path)], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    assert {starter.communicate()[0].strip() for starter in starters} == {path.read_bytes().hex()}
    assert [entry.name for entry in path.parent.iterdir()] == ["pseudonym.key"]


@pytest.mark.rule("P-61")
def test_the_key_may_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TAGBID_PSEUDONYM_KEY", KEY.hex())
    assert load_key(tmp_path / "unused") == KEY
    assert not (tmp_path / "unused").exists()
    monkeypatch.setenv("TAGBID_PSEUDONYM_KEY", "not hex")
    with pytest.raises(ConfigError, match="hexadecimal") as caught:
        load_key(tmp_path / "unused")
    assert "not hex" not in str(caught.value).replace("not hexadecimal", "")


@pytest.mark.rule("P-61")
@pytest.mark.parametrize("text", ["", "00" * 31, "zz" * 32, "00 " * 32])
def test_a_key_that_failed_to_arrive_in_the_environment_is_refused_and_makes_no_new_one(tmp_path, monkeypatch, text):
    monkeypatch.setenv("TAGBID_PSEUDONYM_KEY", text)
    with pytest.raises(ConfigError, match="64 hexadecimal"):
        load_key(tmp_path / "pseudonym.key")
    assert not (tmp_path / "pseudonym.key").exists()


@pytest.mark.rule("P-63")
@pytest.mark.parametrize("placeholder", ["", "null", "unknown"])
def test_the_hash_of_a_placeholder_is_no_id(placeholder):
    """Uploads hash whole columns: all rows without an e-mail would become one user."""
    hashed = hashlib.sha256(placeholder.encode()).hexdigest()
    assert RING.uid("email", hashed) is RING.uid("phone", hashed.upper()) is None


@pytest.mark.rule("P-63")
@pytest.mark.parametrize(
    ("id_type", "raw"),
    [("email", "\ud800@example.com"), ("cookie", "a\ud800"), ("cookie", "a\x00b"), ("login", "a\nb"),
     ("phone", "\u0661\u0662\u0663\u0664\u0665\u0666\u0667"), ("phone", "+000 000 000")],
)  # fmt: skip
def test_control_characters_half_characters_and_foreign_digits_make_no_id(id_type, raw):
    assert RING.uid(id_type, raw) is None


def test_a_phone_number_with_and_without_its_plus_are_two_users():
    assert RING.uid("phone", "+491701234567") != RING.uid("phone", "491701234567")


def test_the_draft_of_a_dead_starter_does_not_stop_the_next(tmp_path):
    """A container gives every start the same pid."""
    (tmp_path / f".pseudonym.key.{os.getpid()}").write_bytes(b"torn")
    assert len(secret_file(tmp_path / "pseudonym.key")) == 32


def test_threads_of_one_process_agree_on_one_secret(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: secret_file(tmp_path / "pseudonym.key"), range(8)))
    assert found == {(tmp_path / "pseudonym.key").read_bytes()}


def test_a_secret_that_cannot_be_kept_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be kept"):
        secret_file(tmp_path / "file" / "pseudonym.key")
    with pytest.raises(ConfigError, match="cannot be kept"):
        secret_file(tmp_path)


@pytest.mark.rule("P-61")
def test_key_and_directory_are_private_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        secret_file(tmp_path / "data" / "pseudonym.key")
    finally:
        os.umask(before)
    assert (tmp_path / "data" / "pseudonym.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


@pytest.mark.rule("P-60")
def test_marks_meet_for_spellings_of_one_address_and_for_nothing_else():
    ring = KeyRing(bytes(range(32)))
    assert ring.mark("ip", " 2001:DB8::1 ") == ring.mark("ip", "2001:0db8:0:0:0:0:0:1") != ""
    assert ring.mark("address", "1, Elm Street") == ring.mark("address", "\uff11 elm  street") != ""
    assert ring.mark("address", "10.0.0.1") != ring.mark("ip", "10.0.0.1")
    assert ring.mark("ip", "10.0.0.1") != KeyRing(bytes(32)).mark("ip", "10.0.0.1")
    assert ring.mark("ip", "10.0.0.1") != ring.uid("device", "10.0.0.1").hex()
    assert ring.mark("ip", "10.1.2.*") != ring.mark("ip", "10.1.3.*")
    assert ring.mark("ip", "  ") == ring.mark("address", " ,. ") == ""
