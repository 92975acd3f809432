"""What the installed libraries say of themselves, read from their source and never imported."""
