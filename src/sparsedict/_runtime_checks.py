"""The runtime type checker that ``SPARSEDICT_CHECK_TYPES=1`` enables. The tests also run with it."""

from beartype import BeartypeConf, beartype

# With the numeric tower, `float` accepts an `int`, as in static type checkers.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
