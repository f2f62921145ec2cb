"""Quality of dictionaries on stored activations: ``python -m benchmarks.quality``."""
