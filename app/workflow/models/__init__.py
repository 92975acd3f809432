"""What models say of themselves, here or on the hub, and what they need to run."""
