from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedict.hub import HubAddress, is_address


@pytest.mark.parametrize(
    ("text", "repository", "path", "revision"),
    [
        ("hf://owner/coders", "owner/coders", "", None),
        ("owner/coders", "owner/coders", "", None),
        ("hf://owner/coders/", "owner/coders", "", None),
        ("hf://owner/coders/layer_3/mlp", "owner/coders", "layer_3/mlp", None),
        ("hf://owner/coders@v1.0", "owner/coders", "", "v1.0"),
        ("hf://owner/coders@main/layer_3", "owner/coders", "layer_3", "main"),
        ("hf://owner/coders/layer_3@main", "owner/coders", "layer_3", "main"),
        ("hf://owner/coders@" + "0" * 40 + "/a", "owner/coders", "a", "0" * 40),
    ],
)
def test_an_address_names_repository_path_and_revision(
    text: str, repository: str, path: str, revision: str | None
) -> None:
    assert HubAddress.from_string(text) == HubAddress(repository, path, revision)
    assert HubAddress.from_string(str(HubAddress.from_string(text))) == HubAddress.from_string(text)


@pytest.mark.parametrize(
    "text",
    [
        "hf://",
        "hf://owner",
        "hf://owner/",
        "hf:///name",
        "hf://owner/name@",
        "hf://owner/name@/path",
        "hf://owner/name/../other",
        "hf://owner/name/a/../../b",
        "hf://owner/name/a//b",
        "hf://owner/name/a\\..\\b",
        "hf://../name",
        "hf://owner/..",
        "hf://owner/name@../x",
        "hf://own er/name",
        "hf://owner/name/a\nb",
    ],
)
def test_invalid_addresses_raise(text: str) -> None:
    with pytest.raises(ValueError, match="An address on the hub must have the form `hf://owner/repository"):
        HubAddress.from_string(text)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_raises_and_never_leaves_its_repository(text: str) -> None:
    try:
        address = HubAddress.from_string(f"hf://{text}")
    except ValueError:
        return
    root = Path("/snapshot").resolve()
    assert (root / address.path).resolve().is_relative_to(root)
    assert HubAddress.from_string(str(address)) == address


def test_paths_of_this_machine_are_no_addresses() -> None:
    assert is_address("hf://owner/name")
    assert not is_address("owner/name")
    assert not is_address(Path("hf://owner/name"))
