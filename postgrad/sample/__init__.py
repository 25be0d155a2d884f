"""Samplers: from problems to traces."""
