"""The copy of the last finite weights: its values, its place, and what happens on a full disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from sparsedict.training._state_copy import StateCopy

resource = pytest.importorskip("resource", reason="requires limits on files")


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(6, 5, generator=generator)
    return {
        "matrix": values,
        "transposed": values.double().T,
        "half": values.bfloat16(),
        "scalar": values[0, 0].clone(),
        "count": values.long(),
        "flags": values > 0,
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(values.clone()),
    }


def assert_holds(copy: StateCopy, expected: dict[str, torch.Tensor]) -> None:
    found = copy.read()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


@contextmanager
def full_disk() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("full_from", [None, 0, 1])
def test_the_copy_has_the_values_of_the_last_write(full_from: int | None) -> None:
    copy = StateCopy()
    for write in range(3):
        own, expected = tensors(write), tensors(write)
        if full_from is not None and write >= full_from:
            with full_disk():
                copy.write(own)
        else:
            copy.write(own)
        for value in own.values():
            value.data.zero_()
        assert_holds(copy, expected)


def test_a_result_of_read_can_be_written_back() -> None:
    copy = StateCopy()
    copy.write(tensors())
    own = {name: torch.zeros_like(value) for name, value in tensors().items()}
    for name, value in copy.read().items():
        own[name].copy_(value)
    copy.write(own)
    assert_holds(copy, tensors())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="requires Linux")
def test_the_copy_takes_no_memory_of_the_process() -> None:
    def resident() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))

    copy, value = StateCopy(), torch.ones(2**23)
    copy.write({"first": torch.ones(16)})
    before = resident()
    copy.write({"value": value})
    assert resident() - before < value.nbytes / 4
    assert_holds(copy, {"value": value})
