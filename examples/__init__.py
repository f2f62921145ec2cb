"""Example scripts for `sparsedict`, and the package `examples.report`, which replicates a research report."""
