"""Tokens to activations to shuffled batches.

Whatever somebody trains on becomes `Batches` by `as_batches`: an endless iterator (or one pass, ``repeat=False``) with

- ``next_batch()``: an `ActivationBatch`, or a dict of them by site where ``names`` isn't ``None``;
- ``state_dict()`` and ``load_state_dict(state)``: a few integers that say where the next row comes from;
- ``pairs``: false for a bare tensor, which has nothing to distil; ``n_tokens`` of one pass, where known;
  ``n_served``, ``epoch``, and a ``description`` in one line that says whether and how passes repeat.
"""

from sparsedict.data._batches import AnyBatch, Batches
from sparsedict.data._given import as_batches
from sparsedict.data._pack import pack
from sparsedict.data._store import ActivationStore
from sparsedict.data._stream import ActivationStream
from sparsedict.data.synthetic import SyntheticFeatures

__all__ = ["ActivationStore", "ActivationStream", "AnyBatch", "Batches", "SyntheticFeatures", "as_batches", "pack"]
