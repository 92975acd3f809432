"""The page: the only room with gradio."""
