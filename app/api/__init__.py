"""The interfaces for programs, over HTTP: thin over the engine, without Gradio."""
