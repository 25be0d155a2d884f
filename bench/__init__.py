"""Measurements that take minutes, each with its command in its first line. Not part of the package."""
