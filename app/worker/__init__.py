"""The worker process: the only room with torch. It walks plans and keeps models warm."""
