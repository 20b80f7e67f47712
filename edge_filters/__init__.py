"""Hop 1: light models beside the sensors. Never imports Beam or the pipelines.

Reading order is the way of a reading: windower, decider, allocator, aggregator, engine, courier, shell.
"""
