import pytest

from dmp.forgotten import DIGEST_BYTES, Forgotten
from dmp.pseudonym import KeyRing, key_ring

UID, OTHER = bytes(range(16)), bytes(16)


def test_a_forgotten_id_is_nobodys_and_others_are_theirs(tmp_path):
    ring = key_ring(tmp_path)
    uid = ring.uid("email", "a@example.com")
    assert Forgotten(tmp_path).add([uid]) == 1
    later = key_ring(tmp_path)
    assert later.uid("email", "A@example.com ") is None
    assert later.pseudonym("email", "a@example.com") == uid
    assert later.uid("cookie", "a@example.com") is not None


def test_a_running_process_learns_of_it_within_half_a_second(tmp_path):
    now = 0.0
    running = Forgotten(tmp_path, clock=lambda: now)
    ring = KeyRing(bytes(32), running)
    uid = ring.uid("cookie", "alice")
    Forgotten(tmp_path).add([uid])
    now = 0.49
    assert ring.uid("cookie", "alice") == uid
    now = 0.51
    assert ring.uid("cookie", "alice") is None


@pytest.mark.rule("P-71")
def test_the_list_holds_no_pseudonym(tmp_path):
    Forgotten(tmp_path).add([UID])
    assert UID not in (tmp_path / "forgotten").read_bytes()
    assert (tmp_path / "forgotten").stat().st_mode & 0o077 == 0


def test_a_torn_end_is_cut_and_what_stands_before_it_holds(tmp_path):
    held = Forgotten(tmp_path)
    held.add([UID])
    with (tmp_path / "forgotten").open("ab") as file:
        file.write(b"torn")
    again = Forgotten(tmp_path)
    assert UID in again
    assert again.add([UID, OTHER, OTHER]) == 1
    assert (tmp_path / "forgotten").stat().st_size == 2 * DIGEST_BYTES
    assert OTHER in Forgotten(tmp_path)
