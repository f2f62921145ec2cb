"""Turns tokens into activations, and activations into shuffled batches.

`as_batches` turns all forms of training data into `Batches`, an endless iterator (or a single pass with
``repeat=False``) with

- ``next_batch()``, which returns `Activations`; ``points`` lists the names of their points;
- ``state_dict()`` and ``load_state_dict(state)``, whose state is a few integers that identify the next row;
- ``n_tokens`` of one pass, if known; ``n_tokens_yielded``; ``epoch``; and a one-line ``description``, which includes
  how passes repeat.
"""

from sparsedict.data import synthetic
from sparsedict.data._batches import Batches
from sparsedict.data._forms import token_source
from sparsedict.data._harvest_ranks import HarvestRanks
from sparsedict.data._pack import pack
from sparsedict.data._packing import Bos, Texts
from sparsedict.data._site_capture import takes_mask
from sparsedict.data._store import ActivationStore
from sparsedict.data._stream import ActivationStream
from sparsedict.data._tokens import BlockSize, TokenSource
from sparsedict.data._user_data import as_batches
from sparsedict.data.synthetic import ComputedFeature, SyntheticFeatures, SyntheticLayers

__all__ = [
    "ActivationStore",
    "ActivationStream",
    "Batches",
    "BlockSize",
    "Bos",
    "ComputedFeature",
    "HarvestRanks",
    "SyntheticFeatures",
    "SyntheticLayers",
    "Texts",
    "TokenSource",
    "as_batches",
    "pack",
    "synthetic",
    "takes_mask",
    "token_source",
]
