"""A run's folder -> one self-contained HTML page."""
