"""Engines: each takes runs through their steps in a way of its own, and answers for them."""

from transferlab.train.engines.engine import Engine
from transferlab.train.engines.scanned import Resident
from transferlab.train.engines.streaming import Streaming
from transferlab.train.engines.threaded import Abreast
from transferlab.train.engines.vmapped import Companions

__all__ = ["Abreast", "Companions", "Engine", "Resident", "Streaming"]
