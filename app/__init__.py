"""Diffusers Workbench: a page, an engine and a worker that keeps diffusion models warm."""

__version__ = "0.1.0"
