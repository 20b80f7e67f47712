"""Hop 2: Kafka -> split -> real time, aggregate, heavy -> feedback. Never imports edge_filters."""
