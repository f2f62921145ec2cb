"""How the processes of a training run divide its work: `Parallel`, `Alone` and `DataParallel`."""

from sparsedict.parallel._alone import Alone
from sparsedict.parallel._channels import Channels, CollectiveError, collective
from sparsedict.parallel._checksums import check_rows, checksum
from sparsedict.parallel._data_parallel import DataParallel
from sparsedict.parallel._errors import RankError
from sparsedict.parallel._failures import Reports
from sparsedict.parallel._host_group import host_group
from sparsedict.parallel._order import order_of_parts
from sparsedict.parallel._parallel import Parallel
from sparsedict.parallel._per_rank import of_rank, per_rank, saved_values
from sparsedict.parallel._ranks import Ranks, holding, initialise_environment, process_group
from sparsedict.parallel._whole_batch import WholeBatch

__all__ = [
    "Alone",
    "Channels",
    "CollectiveError",
    "DataParallel",
    "Parallel",
    "RankError",
    "Ranks",
    "Reports",
    "WholeBatch",
    "check_rows",
    "checksum",
    "collective",
    "holding",
    "host_group",
    "initialise_environment",
    "of_rank",
    "order_of_parts",
    "per_rank",
    "process_group",
    "saved_values",
]
