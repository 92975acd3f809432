"""The estimates of what a run needs, against bytes that were counted.

What whole runs were seen to take is a measurement, with a machine's noise in it, and the business
of `benchmarks/peak.py`.
"""

from __future__ import annotations

import pytest

from benchmarks.peak import counted


@pytest.mark.filterwarnings("ignore")  # networks on no device warn of what does not matter here
def test_what_networks_of_published_sizes_need_is_what_was_estimated():
    off = [row for row in counted() if not 0.8 < row.ratio < 1.25]
    assert off == []
