from bidder.remembered import MAX_KEY_BYTES, Remembered


def test_an_answer_is_made_once_and_the_first_asked_is_forgotten_first():
    asked = []
    known = Remembered(lambda key: asked.append(key) or key * 2, 9, 20)  # a small number is one byte
    assert [known[n] for n in (1, 2, 1, 2, 3, 2, 1)] == [2, 4, 2, 4, 6, 4, 2]
    assert asked == [1, 2, 3, 1]
    assert list(known) == [3, 1]


def test_what_is_long_takes_the_place_of_many():
    known = Remembered(len, 0, 1_000)
    for n in range(100, 110):
        assert known["x" * n] == n
    assert len(known) == 9
    assert known["y" * 900] == 900
    assert list(known) == ["y" * 900]


def test_what_is_too_long_is_answered_and_not_kept():
    known = Remembered(len, 0, 1 << 20)
    assert known["x" * 2 * MAX_KEY_BYTES] == 2 * MAX_KEY_BYTES
    assert len(known) == 0


def test_memory_of_nothing_still_answers():
    known = Remembered(len, 1_000, 0)
    assert (known["abc"], len(known)) == (3, 0)
