"""Turns a document with its inputs into a plan, and reports all mistakes at once."""
