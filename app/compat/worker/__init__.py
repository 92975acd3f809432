"""Workarounds in the worker process."""
