"""Scripts that show how `sparsedict` is used, and `examples.report`, a whole investigation."""
