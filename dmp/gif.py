"""The picture that pixels answer with: a transparent GIF of one dot."""

PIXEL = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c000000000100010000020144003b")
