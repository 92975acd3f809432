"""A fuzz of the running server's API: generated calls while ordinary runs go on."""
