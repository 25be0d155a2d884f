"""A run's folder -> one self-contained HTML page."""

from postgrad.report.page import write
from postgrad.report.results import results_table

__all__ = ["results_table", "write"]
