"""Memory reported as freed has really left the process."""

from __future__ import annotations

from typing import Any

from app.protocol import FreeMemory, MemoryFreed
from tests.worker.bench import Bench, document, step


def test_free_returns_private_weights_to_the_system(bench: Bench):
    loading = {"torch_dtype": "torch.bfloat16"}
    assert bench.run(document(step(loading=loading, num_images_per_prompt=4))).success
    told: list[Any] = []
    bench.when = told.append
    bench.runner.free(FreeMemory(request_id="free"))
    (freed,) = (event for event in told if isinstance(event, MemoryFreed))
    own_bytes = sum(item.weight_bytes - item.file_backed_bytes for item in freed.dropped)
    assert own_bytes > 10_000_000, "in another dtype than the file's the weights are the process's"
    assert freed.before.anonymous_bytes - freed.after.anonymous_bytes >= own_bytes
