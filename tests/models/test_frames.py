import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmp import keys
from dmp.errors import BadEvents
from dmp.schema import Contact, User
from dmp.taxonomy import INTERESTS, tag_id
from models import features, frames
from models.context import Ad, Context
from models.dataset import Rows
from models.features import Rates, Vocabulary
from tests.models.factories import ADS, impressions

TEXT = st.sampled_from(["", "a", "b", "ü.example"])
ROW = st.tuples(
    st.builds(Context, exchange=TEXT, domain=TEXT, bundle=TEXT, category=st.sampled_from(["", "IAB20", "IAB20-3"]),
              tagid=TEXT, width=st.sampled_from([0, 300]), position=st.integers(-1, 7), device_type=st.integers(0, 7),
              os=TEXT, floor_micros=st.integers(0, 2**40), hour=st.integers(-1, 23)),
    st.none() | st.builds(
        User,
        tags=st.dictionaries(st.sampled_from([*INTERESTS[:3], tag_id("rfm.recency.2")]), st.integers(0, 100)),
        audiences=st.frozensets(st.integers(0, 9)),
        contacts=st.lists(st.builds(Contact, scope=st.just(keys.number("travel")), hour=st.integers(0, 480_000),
                                    count=st.integers(1, 3)), max_size=2).map(tuple)),
    st.sampled_from([*ADS, Ad("c", "x", audiences=frozenset({3}))]),
    st.integers(0, 2**50),
)  # fmt: skip
RATES = Rates(
    places={(): (0.01, 9.0), ("a",): (0.02, 8.0), ("a", "b", "a"): (0.03, 7.0)},
    ads={("acme",): (0.05, 3.0), ("goal", "sports", "s1"): (0.06, 2.0)},
)


def a_log(items):
    n = len(items)
    return Rows(items, np.zeros(n), [None] * n, [f"b{i}/1" for i in range(n)], True, {})


@settings(deadline=None)
@given(st.lists(ROW, min_size=1, max_size=12))
def test_a_frame_gives_the_very_matrix_the_bidders_functions_give(items):
    vocabulary = Vocabulary(
        {name: values for name, values in features.fit_vocabulary(items, min_rows=1).values.items() if name != "os"},
        RATES,
    )
    X = frames.matrix(vocabulary, frames.table_of(a_log(items)))
    assert np.array_equal(X, features.matrix(vocabulary, items), equal_nan=True)


@settings(deadline=None)
@given(st.lists(ROW, min_size=1, max_size=40))
def test_a_frame_learns_the_same_vocabulary(items):
    frame = frames.of_rows(a_log(items))
    assert frames.fit_vocabulary(frame, np.ones(len(items), bool)).values == features.fit_vocabulary(items).values


def test_frames_survive_the_disk_part_by_part(tmp_path):
    rows = impressions(1_000)
    table = frames.table_of(rows)
    pq.write_table(table.slice(0, 600), tmp_path / "1.parquet", row_group_size=250)
    pq.write_table(table.slice(600), tmp_path / "2.parquet", row_group_size=250)
    frame = frames.on_disk([tmp_path / "1.parquet", tmp_path / "2.parquet"])
    assert frame.sizes == (250, 250, 100, 250, 150)
    assert frame.column("key").tolist() == rows.keys
    assert (frame.column("clicked") == (rows.clicks > 0)).all()
    keep = np.arange(1_000) % 3 == 0
    found = list(frames.chunks(frame, keep))
    assert np.concatenate([where for where, _ in found]).tolist() == np.flatnonzero(keep).tolist()
    vocabulary = features.fit_vocabulary(rows.items)
    X = np.concatenate([frames.matrix(vocabulary, part) for _, part in found])
    assert np.array_equal(X, features.matrix(vocabulary, rows.items)[keep], equal_nan=True)


def test_a_damaged_part_names_itself(tmp_path):
    (tmp_path / "1.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(BadEvents, match=r"1\.parquet is no training data"):
        frames.on_disk([tmp_path / "1.parquet"])


def test_samples_are_drawn_by_the_key_alone():
    lots = np.array([frames.lot(f"b{i}/1") for i in range(20_000)])
    assert ((lots >= 0) & (lots < 1)).all()
    # Uniform: the share below .1 has a standard error of .0021.
    assert (lots < 0.1).mean() == pytest.approx(0.1, abs=4 * 0.0021)
