"""Measurement: benchmarks and their statistics."""
