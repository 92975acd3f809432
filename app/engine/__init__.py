"""The engine: the queue and the worker's life. `engine` is the one of this process.

Importing it starts nothing and imports no torch; `engine.start(settings)` does.
"""

from app.engine.engine import Engine

engine = Engine()

__all__ = ["Engine", "engine"]
