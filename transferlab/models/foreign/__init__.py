"""Models of somebody else: modules of Flax NNX and Linen, and functions of a pytree, as networks."""

from transferlab.models.foreign.network import ForeignNetwork, function_network, linen_network, network
from transferlab.models.foreign.stages import stage

__all__ = ["ForeignNetwork", "function_network", "linen_network", "network", "stage"]
