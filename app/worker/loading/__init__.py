"""Loads components from files, and assembles pipelines."""
