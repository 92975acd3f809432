"""A practitioner's model folder, of A1111 or ComfyUI: every file by its bare name, offline."""
