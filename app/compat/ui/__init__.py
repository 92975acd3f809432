"""Work-arounds in the page."""
