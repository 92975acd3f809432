"""Slots: a worker each, and what the engine knows of it. One run at a time is in a slot."""
