"""Files for other tools: Neuronpedia's upload, the frontend of circuit-tracer, and Parquet.

Each function writes the records of `sparsedict.analysis.collect`, except for `write_circuit_tracer_graph`, which writes
an attribution graph.
"""

from sparsedict.pages.exports._circuit_tracer import feature_number, write_circuit_tracer
from sparsedict.pages.exports._graph import graph_content, write_circuit_tracer_graph
from sparsedict.pages.exports._latents import histogram, percentiles
from sparsedict.pages.exports._neuronpedia import write_neuronpedia
from sparsedict.pages.exports._parquet import write_parquet

__all__ = [
    "feature_number",
    "graph_content",
    "histogram",
    "percentiles",
    "write_circuit_tracer",
    "write_circuit_tracer_graph",
    "write_neuronpedia",
    "write_parquet",
]
