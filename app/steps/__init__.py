"""The kinds of steps a plan may hold, and what runs each."""

from app.steps import pipeline

STEP_KINDS = {"pipeline": pipeline.run}
