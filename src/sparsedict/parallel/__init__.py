"""How the processes of a training run divide its work: `Parallel`, `Alone` and `DataParallel`."""

from sparsedict.parallel._alone import Alone
from sparsedict.parallel._data_parallel import DataParallel
from sparsedict.parallel._errors import RankError
from sparsedict.parallel._order import order_of_parts
from sparsedict.parallel._parallel import Parallel, WholeBatch
from sparsedict.parallel._per_rank import of_rank, per_rank, saved_values

__all__ = [
    "Alone",
    "DataParallel",
    "Parallel",
    "RankError",
    "WholeBatch",
    "of_rank",
    "order_of_parts",
    "per_rank",
    "saved_values",
]
