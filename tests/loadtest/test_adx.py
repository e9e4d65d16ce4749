from pathlib import Path

import pytest

from loadtest.adx import TAG_OF, interests

DATA = Path(__file__).parents[3] / "shared" / "data" / "bid_requests" / "requests.parquet"


@pytest.mark.parametrize(
    ("topic", "tag"),
    [(3, "interest.entertainment"), (47, "interest.automotive"), (67, "interest.travel"), (20, "interest.sports")],
)
def test_a_top_level_topic_is_its_interest(topic, tag):
    assert TAG_OF[topic] == tag


def test_weights_of_one_interest_add_up_and_unknown_topics_say_nothing():
    found = interests([34, 36, 5_000_000], [0.25, 0.5, 0.25])
    assert found == {"interest.entertainment": 0.75}


def test_most_topics_of_real_pages_are_known():
    if not DATA.exists():
        pytest.skip("needs ../shared/data/bid_requests")
    import pyarrow.parquet

    columns = pyarrow.parquet.read_table(DATA, columns=["verticals"]).to_pydict()
    topics = [topic for page in columns["verticals"] for topic in page or ()]
    known = sum(topic in TAG_OF for topic in topics)
    assert known / len(topics) > 0.6
