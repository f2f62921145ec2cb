"""The Hugging Face hub: download and upload of dictionaries, through ``huggingface_hub`` (the extra ``hf``).

An address is ``hf://owner/repository`` or ``hf://owner/repository/path``. A branch, tag or commit is given as
``hf://owner/repository@revision/path``. ``huggingface_hub`` controls access, by its login or the variable ``HF_TOKEN``.
"""

from sparsedict.hub._address import HubAddress, is_address
from sparsedict.hub._card import card
from sparsedict.hub._figures import SavableFigure
from sparsedict.hub._push import push
from sparsedict.hub._snapshot import Snapshot
from sparsedict.hub._upload import HasMetrics, upload

__all__ = ["SavableFigure", "HasMetrics", "HubAddress", "Snapshot", "card", "is_address", "push", "upload"]
