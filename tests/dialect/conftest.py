"""Fixtures of tests that plan documents."""

from tests.plan_bench import bench, component

__all__ = ["bench", "component"]
