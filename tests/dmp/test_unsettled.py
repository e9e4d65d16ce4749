from dmp import keys, unsettled
from dmp.unsettled import EVERYBODY
from tests.dmp.factories import user


def test_a_user_waits_once_however_often_put_aside(client):
    unsettled.add(client, 0, [user(1), user(2), user(1)])
    assert unsettled.waiting(client, 0) == {user(1): 2, user(2): 1}
    assert unsettled.waiting(client, 1) == {}


def test_who_was_put_aside_again_meanwhile_goes_on_waiting(client):
    unsettled.add(client, 0, [user(1)])
    unsettled.add(client, 0, [user(1)])
    assert not unsettled.done(client, 0, user(1), 1)
    assert unsettled.done(client, 0, user(1), 2)
    assert not unsettled.done(client, 0, user(1), 2)
    assert client.exists(keys.unsettled(0)) == 0


def test_who_finds_no_room_is_counted_with_everybody(client):
    unsettled.add(client, 0, [user(n) for n in range(5)], most=3)
    unsettled.add(client, 0, [user(0)], most=3)
    assert unsettled.waiting(client, 0) == {user(0): 2, user(1): 1, user(2): 1, EVERYBODY: 2}


def test_nobody_aside_asks_the_store_nothing(client):
    unsettled.add(None, 0, [])


def test_the_forgotten_wait_in_no_partition(client):
    for partition in (0, 3):
        unsettled.add(client, partition, [user(1), user(2)])
    assert unsettled.forget(client, 8, [user(1)]) == 2
    assert unsettled.forget(client, 8, []) == 0
    assert unsettled.waiting(client, 3) == {user(2): 1}
