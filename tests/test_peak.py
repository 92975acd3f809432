"""Estimates of a run's memory against counted bytes.

Measurements of whole runs, with a machine's noise, are in `benchmarks/peak.py`.
"""

from __future__ import annotations

import pytest

from benchmarks.peak import counted


@pytest.mark.filterwarnings("ignore")  # networks on no device warn of what does not matter here
def test_estimate_matches_counted_bytes_of_published_sizes():
    off = [row for row in counted() if not 0.8 < row.ratio < 1.25]
    assert off == []
