"""Facts about the installed libraries, read from their source without importing them."""
