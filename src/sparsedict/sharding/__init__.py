"""Dictionaries whose latents are divided among the processes of a group."""

from sparsedict.sharding._merge import largest_of_whole, merge
from sparsedict.sharding._peers import Peers
from sparsedict.sharding._shard import Shard
from sparsedict.sharding._slices import slices_of
from sparsedict.sharding._traffic import Collective, Traffic

__all__ = ["Collective", "Peers", "Shard", "Traffic", "largest_of_whole", "merge", "slices_of"]
