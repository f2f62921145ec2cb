"""Records the formats that other tools read as JSON schemas: ``python -m tests.pages.exports.record FOLDER``.

``FOLDER`` has the wheels of circuit-tracer and SAEDashboard::

    pip download --no-deps --dest FOLDER circuit-tracer==0.5.0 sae-dashboard==0.8.0

The modules that define the formats are run from the wheels, without the packages' dependencies. They need pydantic and
NumPy. The schemas and the versions are written to ``formats.json``, which the tests read.
"""

from __future__ import annotations

import inspect
import json
import sys
import tempfile
import zipfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

FORMATS = Path(__file__).with_name("formats.json")
FEATURES = "circuit_tracer/frontend/feature_models.py"
GRAPHS = "circuit_tracer/frontend/graph_models.py"
DASHBOARD = "sae_dashboard/neuronpedia/neuronpedia_dashboard.py"


def run(wheel: Path, name: str, folder: Path) -> ModuleType:
    """Runs one module of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        file = Path(archive.extract(name, folder))
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(kind: type) -> dict[str, Any]:
    """Returns the schema of the arguments of a class that isn't pydantic's. Others aren't accepted."""
    from pydantic import ConfigDict, create_model

    given = inspect.signature(kind.__init__).parameters
    fields: Any = {
        name: (own.annotation, ... if own.default is own.empty else own.default)
        for name, own in given.items()
        if name != "self"
    }
    return create_model(kind.__name__, __config__=ConfigDict(extra="forbid"), **fields).model_json_schema()


def main() -> None:
    """Runs the command."""
    wheels = Path(sys.argv[1])
    (tracer,), (dashboard,) = wheels.glob("circuit_tracer-*.whl"), wheels.glob("sae_dashboard-*.whl")
    with tempfile.TemporaryDirectory() as folder:
        features, graphs = (run(tracer, name, Path(folder)) for name in (FEATURES, GRAPHS))
        batches = run(dashboard, DASHBOARD, Path(folder))
    found = {
        "versions": {wheel.name.split("-")[0]: wheel.name.split("-")[1] for wheel in (tracer, dashboard)},
        "features": features.Model.model_json_schema(),
        "graph": graphs.Model.model_json_schema(),
        "batch": arguments(batches.NeuronpediaDashboardBatch),
        "feature": arguments(batches.NeuronpediaDashboardFeature),
        "activation": arguments(batches.NeuronpediaDashboardActivation),
    }
    FORMATS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
