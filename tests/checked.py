"""The type checker that every test runs the library under."""

from beartype import BeartypeConf, beartype

# With the numeric tower a `float` accepts an `int`, as it does for every static type checker.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
