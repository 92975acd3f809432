"""A document with its inputs becomes a plan: every mistake is found here, all at once."""
