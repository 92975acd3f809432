"""Worker slots: one worker each, with the engine's state about it and at most one run."""
