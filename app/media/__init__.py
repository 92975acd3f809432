"""Images, videos and audio as files: accepted formats, size limits, download from URLs."""
