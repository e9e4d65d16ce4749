"""The offer and the money: OpenRTB in, a valid bid or a reason out, every notice counted once."""
