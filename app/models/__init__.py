"""Models, local or on the hub: their components, files, and memory needs."""
