"""Work-arounds in the worker process."""
