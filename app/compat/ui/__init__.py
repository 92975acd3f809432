"""Workarounds in the page."""
