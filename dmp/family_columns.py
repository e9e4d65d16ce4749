"""Columns of the tables that model families and weighers hand to a build (`dmp.families`)."""

import pyarrow as pa

FAMILY_COLUMNS = pa.schema(
    [("uid", pa.binary(16)), ("tag", pa.uint32()), ("score", pa.uint8()), ("as_of_day", pa.int32())]
)
WEIGHT_COLUMNS = pa.schema(
    [("source", pa.string()), ("event_id", pa.string()), ("weight", pa.float64()), ("reason", pa.string())]
)
"""reason: codes of what was found, joined by "+", for the manifest."""

NOTES = b"notes"
"""Key in the metadata of a family's table: JSON that the manifest keeps, what the model found."""
