"""The demo: recorded data that ships with the product, and what replays it."""
