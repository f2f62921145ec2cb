"""The library's own file format: a folder with ``dictionary.safetensors`` and ``dictionary.json``.

The weights are plain safetensors, latent-major, in the precision in which they were saved. The JSON says what they are
the weights of: kind, parts, widths, dtype and where they were trained. Nothing is pickled, and nothing that a file
names is imported or run.

A save replaces both files at once, whenever it is interrupted: the new weights are first written beside the old ones,
as ``dictionary.safetensors.<digest>``; then the JSON is replaced, which names the digest of its weights (this is the
moment at which the save has happened); then the weights take their place. A reader takes the weights of the digest
that the JSON names, under either name. A folder may have one writer at a time.
"""

from sparsedict.storage._atomic import replace_file, sync_folder
from sparsedict.storage._description import FORMAT_VERSION, Description, Named, StorageError
from sparsedict.storage._folder import read_description, read_weights, weight_shapes, write_dictionary

__all__ = [
    "Description",
    "FORMAT_VERSION",
    "Named",
    "StorageError",
    "read_description",
    "read_weights",
    "replace_file",
    "sync_folder",
    "weight_shapes",
    "write_dictionary",
]
