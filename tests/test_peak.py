"""The estimates of what a run needs, against what it was seen to need."""

from __future__ import annotations

import pytest

from benchmarks.peak import counted, run_shapes


@pytest.mark.parametrize("pictures", [1, 4])
def test_what_a_run_on_this_cpu_takes_is_about_what_was_estimated(pictures: int):
    assert 0.5 < run_shapes(512, pictures).ratio < 2


@pytest.mark.filterwarnings("ignore")  # networks on no device warn of what does not matter here
def test_what_networks_of_published_sizes_need_is_what_was_estimated():
    off = [row for row in counted() if not 0.8 < row.ratio < 1.25]
    assert off == []
