"""The command line and the dw> prompt, with an engine of their own or a running server."""
