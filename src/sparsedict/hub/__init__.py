"""The Hugging Face hub: files of dictionaries fetched and pushed, through ``huggingface_hub`` (the extra ``hf``).

An address is ``hf://owner/repository``, ``hf://owner/repository/path/in/it`` or, of a branch, tag or commit,
``hf://owner/repository@revision/path/in/it``. Who is allowed to read and write is ``huggingface_hub``'s matter: its
login or the variable ``HF_TOKEN``.
"""

from sparsedict.hub._address import HubAddress, is_address
from sparsedict.hub._card import card
from sparsedict.hub._figures import Drawn
from sparsedict.hub._push import push
from sparsedict.hub._snapshot import Snapshot
from sparsedict.hub._upload import HasNumbers, upload

__all__ = ["Drawn", "HasNumbers", "HubAddress", "Snapshot", "card", "is_address", "push", "upload"]
