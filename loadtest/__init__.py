"""Plays the exchange and the audience: a seeded world, real traffic, auctions, load, and the yardsticks."""
