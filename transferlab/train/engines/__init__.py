"""Engines: each takes runs through their steps in a different way."""

from transferlab.train.engines.engine import Engine
from transferlab.train.engines.scanned import ScannedEngine
from transferlab.train.engines.streaming import StreamingEngine
from transferlab.train.engines.threaded import ThreadedEngine
from transferlab.train.engines.vmapped import VmappedEngine

__all__ = ["Engine", "ScannedEngine", "StreamingEngine", "ThreadedEngine", "VmappedEngine"]
