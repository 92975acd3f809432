"""The LRU cache: evictions, limits, and a comparison with a reference model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.worker.lru_cache import LruCache


def test_lru_cache_evicts_least_recently_used():
    cache: LruCache[str] = LruCache(30)
    for key in "abc":
        cache.put(key, key.upper(), 10)
    assert cache.get("a") == "A"
    cache.put("d", "D", 10)
    assert cache.get("b") is None
    assert [key for key, _ in cache.items()] == ["c", "a", "d"]


def test_lru_cache_ignores_too_large_value_and_evicts_nothing():
    cache: LruCache[str] = LruCache(30)
    cache.put("a", "A", 30)
    cache.put("b", "B", 31)
    assert cache.items() == [("a", "A")]


def test_lru_cache_pop_removes_value_and_frees_bytes():
    cache: LruCache[str] = LruCache(10)
    cache.put("a", "thing", 10)
    assert cache.pop("a") == "thing"
    assert cache.pop("a") is None
    assert cache.held_bytes == 0


SIZES = st.integers(0, 12)


@given(SIZES, st.lists(st.tuples(st.sampled_from("abcde"), st.none() | SIZES)))
def test_lru_cache_matches_reference_model(max_bytes: int, uses: list[tuple[str, int | None]]):
    """The reference model is a list with the most recently used value at its end."""
    cache: LruCache[int] = LruCache(max_bytes)
    model: list[tuple[str, int]] = []
    for key, size_bytes in uses:
        held = dict(model).get(key)
        if size_bytes is None:
            assert cache.get(key) == held
            size_bytes = held
        else:
            cache.put(key, size_bytes, size_bytes)
        if size_bytes is not None and size_bytes <= max_bytes:
            model = [each for each in model if each[0] != key] + [(key, size_bytes)]
        while sum(size for _, size in model) > max_bytes:
            model.pop(0)
        assert cache.items() == model
        assert cache.held_bytes == sum(size for _, size in model)
