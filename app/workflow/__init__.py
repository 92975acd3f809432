"""The vocabulary: what a workflow may say. Free of torch; heavy imports never happen here."""
