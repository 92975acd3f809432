"""The engine: queue and workers. `engine` is the instance of this process.

Importing it starts nothing and does not import torch; `engine.start(settings)` starts it.
"""

from app.engine.engine import Engine

engine = Engine()

__all__ = ["Engine", "engine"]
