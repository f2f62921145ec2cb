"""The library's own file format: a folder with ``dictionary.safetensors`` and ``dictionary.json``.

The weights are plain safetensors, latent-major, in their original precision. The JSON describes them: kind, parts,
widths, dtype and origin. Nothing is pickled, and no name in a file is imported or run.

A save replaces both files atomically. First, the new weights are written next to the old ones, as
``dictionary.safetensors.<digest>``. Then the JSON is replaced, which contains the digest of its weights and completes
the save. Finally, the weights are renamed. A reader uses the weights whose digest is in the JSON, under either name.
A folder must have only one writer at a time.
"""

from sparsedict.storage._atomic import (
    discard_folder,
    make_folder,
    replace_file,
    replace_folder,
    sync_folder,
    sync_tree,
)
from sparsedict.storage._checkpoint import CHECKPOINT, ROWS, read_checkpoint, write_checkpoint
from sparsedict.storage._description import FORMAT_VERSION, Description, Named
from sparsedict.storage._documents import MAX_DOCUMENT, parse_document, read_document, write_document
from sparsedict.storage._folder import DESCRIPTION, read_description, write_dictionary
from sparsedict.storage._json import Reader, StorageError, parse_json, read_json
from sparsedict.storage._lock import release_lock, take_lock
from sparsedict.storage._regular_file import regular_file
from sparsedict.storage._version import NewerVersionError, format_version, installed_version
from sparsedict.storage._weights import (
    WEIGHTS,
    StoredTensor,
    check_finite,
    looks_like,
    read_weights,
    save_tensors,
    stored_tensors,
)

__all__ = [
    "CHECKPOINT",
    "DESCRIPTION",
    "FORMAT_VERSION",
    "MAX_DOCUMENT",
    "ROWS",
    "WEIGHTS",
    "Description",
    "Named",
    "NewerVersionError",
    "Reader",
    "StorageError",
    "StoredTensor",
    "check_finite",
    "discard_folder",
    "format_version",
    "installed_version",
    "looks_like",
    "make_folder",
    "parse_document",
    "parse_json",
    "read_checkpoint",
    "read_description",
    "read_document",
    "read_json",
    "read_weights",
    "regular_file",
    "release_lock",
    "replace_file",
    "replace_folder",
    "save_tensors",
    "stored_tensors",
    "sync_folder",
    "sync_tree",
    "take_lock",
    "write_checkpoint",
    "write_dictionary",
    "write_document",
]
