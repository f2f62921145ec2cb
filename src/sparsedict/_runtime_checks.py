"""The type checker of ``SPARSEDICT_CHECK_TYPES=1``, which the tests run under too."""

from beartype import BeartypeConf, beartype

# With the numeric tower a `float` accepts an `int`, as it does for every static type checker.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
