"""How the processes of a training run divide its work: `Parallel`, with `Alone` for a single process."""

from sparsedict.parallel._alone import Alone
from sparsedict.parallel._errors import RankError
from sparsedict.parallel._parallel import Parallel
from sparsedict.parallel._per_rank import of_rank, per_rank, saved_values
from sparsedict.parallel._whole_batch import WholeBatch, order_of_parts

__all__ = ["Alone", "Parallel", "RankError", "WholeBatch", "of_rank", "order_of_parts", "per_rank", "saved_values"]
