"""What is known about users: events, tags, audiences, seeds, and the store that serves them.

Nothing here knows OpenRTB or LightGBM. The front room (schema, events, keys, codec, store, pseudonym,
config, errors, audiences, catalogue, taxonomy) may be imported by the other rooms; the rest is the room's own.
"""
