from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

import sparsedict as sd
from sparsedict.batches import MissingPointError, aliases, lookup


def two_sites() -> sd.Activations:
    return sd.Activations(
        {
            "0.inputs": torch.arange(8.0).reshape(4, 2),
            "0.outputs": torch.arange(12.0).reshape(4, 3),
            "1.inputs": -torch.arange(8.0).reshape(4, 2),
            "1.outputs": -torch.arange(12.0).reshape(4, 3),
        },
        tokens=torch.arange(4),
        positions=torch.arange(4) % 2,
    )


def test_a_batch_is_a_mapping_from_points_to_tensors() -> None:
    inputs, outputs, neurons = torch.zeros(4, 2), torch.zeros(4, 3), torch.zeros(4, 8)
    batch = sd.ActivationBatch(inputs, outputs, neurons)
    assert isinstance(batch, Mapping)
    assert dict(batch) == {"inputs": inputs, "outputs": outputs, "neurons": neurons}
    assert (len(batch), batch.n_tokens, batch.shape, batch.sites) == (3, 4, (4,), ())
    assert batch.inputs is inputs
    assert batch.outputs is outputs
    assert batch.neurons is neurons
    assert two_sites().sites == ("0", "1")


@pytest.mark.parametrize("point", ["neurons", "0.inputs", ""])
def test_a_missing_point_lists_the_points_there_are(point: str) -> None:
    batch = sd.ActivationBatch(torch.zeros(4, 2), torch.zeros(4, 3))
    for get in (batch.__getitem__, batch.at):
        with pytest.raises(MissingPointError, match="their points are 'inputs', 'outputs'") as caught:
            get(point)
        assert isinstance(caught.value, KeyError)
        assert isinstance(caught.value, ValueError)
        assert ("`neurons=True`" in str(caught.value)) is (point == "neurons")
    assert batch.get(point) is None


@pytest.mark.as_installed
def test_points_of_different_tokens_raise() -> None:
    with pytest.raises(ValueError, match="`outputs` must contain as many tokens as `inputs`, got 3 and 4"):
        sd.ActivationBatch(torch.zeros(4, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="`neurons` must contain as many tokens as `inputs`, got 1 and 4"):
        sd.ActivationBatch(torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"`mask` must have the leading shape of the activations, \(2, 3\)"):
        sd.Activations({"inputs": torch.zeros(2, 3, 4)}, mask=torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least one point"):
        sd.Activations({})


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("points", "error", "message"),
    [
        ({1: torch.zeros(2, 3)}, TypeError, "`points` must have strings such as 'inputs' as keys, got 1"),
        ({"tokens": torch.zeros(2, 3)}, ValueError, "pass it as the argument `tokens`"),
        ({"inputs": [1.0]}, TypeError, r"`points\['inputs'\]` must be a floating-point tensor .*, got list"),
        ({"inputs": torch.arange(4)}, TypeError, "got torch.int64"),
        ({"inputs": torch.tensor(1.0)}, TypeError, "got torch.float32"),
    ],
)
def test_bad_points_are_named(points: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sd.Activations(points)  # pyright: ignore[reportArgumentType]


def test_a_site_s_points_can_be_named_without_the_site() -> None:
    batch = two_sites()
    own = batch.site("1")
    assert own.inputs is batch["1.inputs"]
    assert own["0.inputs"] is batch["0.inputs"]  # all other points stay
    both = batch.site(("1", "0"))
    assert torch.equal(both.outputs, torch.cat([batch["1.outputs"], batch["0.outputs"]], dim=-1))
    assert torch.equal(batch.at(("0.inputs", "1.outputs")), torch.cat([batch["0.inputs"], batch["1.outputs"]], dim=-1))
    with pytest.raises(MissingPointError, match=r"'0\.inputs', '0\.outputs', '1\.inputs'"):
        batch.site(None).at("inputs")
    with pytest.raises(ValueError, match=r"`site` must be one of the data's sites \['0', '1'\], got '2'"):
        batch.site("2")


def test_the_only_site_needs_no_name() -> None:
    x = torch.zeros(4, 2)
    assert sd.Activations({"h.0.inputs": x}).site(None).inputs is x


def test_a_tensor_without_a_name_stands_for_any_point() -> None:
    x = torch.zeros(4, 2)
    batch = sd.Activations({"activations": x})
    assert batch.inputs is batch.outputs is batch.neurons is x
    assert lookup("outputs", aliases(["a.activations", "b.inputs"], "a")) == "activations"
    with pytest.raises(MissingPointError):
        batch.at("0.inputs")


def test_kept_positions_become_rows_in_reading_order() -> None:
    inputs = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[False, True, True], [False, True, False]])
    tokens = torch.arange(6).reshape(2, 3)
    captured = sd.Activations({"inputs": inputs, "outputs": inputs + 100}, tokens=tokens, mask=mask)
    batch = captured.batch()
    assert batch.inputs.tolist() == [[2, 3], [4, 5], [8, 9]]
    assert torch.equal(batch.outputs, batch.inputs + 100)
    assert batch.tokens is not None
    assert batch.tokens.tolist() == [1, 2, 4]
    assert batch.kept.all()
    assert torch.equal(sd.Activations({"inputs": inputs}).batch().inputs, inputs.flatten(0, 1))


def test_a_tensor_under_two_names_is_copied_once() -> None:
    x = torch.arange(8.0).reshape(4, 2)
    batch = sd.Activations({"a.outputs": x, "b.inputs": x, "c.inputs": x.clone()})
    rows = batch.rows(torch.tensor([2, 0]))
    assert rows["a.outputs"] is rows["b.inputs"]
    assert rows["c.inputs"] is not rows["a.outputs"]
    assert rows["c.inputs"].tolist() == [[4, 5], [0, 1]]
    joined = sd.Activations.cat([batch.rows(slice(0, 1)), batch.rows(slice(1, 4))])
    assert joined["a.outputs"] is joined["b.inputs"]
    assert torch.equal(joined["a.outputs"], x)
    assert list(batch.distinct()) == ["a.outputs", "c.inputs"]


def test_ids_and_positions_follow_the_rows_and_keep_their_type() -> None:
    batch = two_sites().site("0").rows(torch.tensor([3, 1])).to(dtype=torch.float64)
    assert batch.inputs.dtype == torch.float64
    assert batch.tokens is not None
    assert batch.positions is not None
    assert batch.tokens.tolist() == [3, 1]
    assert batch.positions.tolist() == [1, 1]
    assert batch.tokens.dtype == torch.int64


def test_sites_of_one_batch_share_tokens_and_intersect_masks() -> None:
    one = sd.Activations({"inputs": torch.zeros(3, 2)}, mask=torch.tensor([True, True, False]))
    two = sd.Activations({"outputs": torch.ones(3, 4)}, mask=torch.tensor([False, True, True]))
    joined = sd.Activations.from_sites({"a": one, "b": two})
    assert list(joined) == ["a.inputs", "b.outputs"]
    assert joined.kept.tolist() == [False, True, False]


def test_representations_show_shapes() -> None:
    assert repr(two_sites().site("0")).startswith("Activations(0.inputs=float32[4, 2], 0.outputs=float32[4, 3]")
    assert "float32[4, 3]" in two_sites()._repr_html_()


def points_apart(n_tokens: int = 6) -> sd.Activations:
    torch.manual_seed(0)
    widths = {"0.inputs": 3, "0.outputs": 2, "1.inputs": 4, "1.outputs": 5}
    return sd.Activations({name: torch.randn(n_tokens, width) for name, width in widths.items()})


READS, WRITES = ("0.inputs", "1.inputs"), ("0.outputs", "1.outputs")


@pytest.mark.parametrize("n_tokens", [6, 1, 0])
def test_joined_points_have_the_same_values_in_one_tensor(n_tokens: int) -> None:
    apart = points_apart(n_tokens)
    joined = apart.joined([READS, WRITES])
    assert list(joined) == list(apart)
    for name, value in apart.items():
        assert torch.equal(joined[name], value)
    for names in (READS, WRITES):
        whole = joined.at(names)
        assert torch.equal(whole, torch.cat([apart[name] for name in names], dim=1))
        assert whole.is_contiguous()
        assert not n_tokens or whole.data_ptr() == joined[names[0]].data_ptr()


def test_columns_of_one_tensor_are_not_copied() -> None:
    values = torch.randn(2, 6, 7)
    batch = sd.Activations({"0.outputs": values[..., :3], "1.outputs": values[..., 3:]})
    assert batch.at(WRITES).data_ptr() == values.data_ptr()
    assert torch.equal(batch.at(WRITES), values)
    reversed_order = batch.at(WRITES[::-1])
    assert torch.equal(reversed_order, torch.cat([values[..., 3:], values[..., :3]], dim=-1))


@pytest.mark.parametrize(
    "parts",
    [
        lambda x: (x[:3, :5], x[3:, :5]),  # rows, not columns
        lambda x: (x[:, :4], x[:, 5:9]),  # a gap
        lambda x: (x[:, :4], x[:, 4:8]),  # columns are left out
        lambda x: (x[:, :4], x[:, 4:].clone()),
        lambda x: (x[:, :4].requires_grad_(), x[:, 4:]),
        lambda x: (x.T[:5].T, x.T[5:].T),
        lambda x: (x.T.contiguous()[:6, :5], x.T.contiguous()[:6, 1:]),
    ],
)
def test_other_parts_are_concatenated(parts) -> None:
    first, second = parts(torch.arange(60.0).view(6, 10))
    joined = sd.Activations({"0.outputs": first, "1.outputs": second}).at(WRITES)
    assert torch.equal(joined, torch.cat([first, second], dim=-1))
    assert joined.requires_grad == first.requires_grad


@pytest.mark.parametrize("change", ["shared", "dtype", "overlap", "missing", "single"])
def test_points_that_cannot_be_joined_stay(change: str) -> None:
    apart = points_apart()
    points, groups = dict(apart), [READS]
    if change == "shared":
        points["copy"] = points["0.inputs"]
    elif change == "dtype":
        points["1.inputs"] = points["1.inputs"].double()
    elif change == "overlap":
        groups = [READS, (*READS, "0.outputs")]
    elif change == "missing":
        groups = [("0.inputs", "2.inputs")]
    else:
        groups = [("0.inputs",)]
    joined = sd.Activations(points).joined(groups)
    for name, value in points.items():
        assert torch.equal(joined[name], value)
        assert joined[name].dtype == value.dtype
        assert (joined[name].data_ptr() == value.data_ptr()) == (change != "overlap" or name not in READS)


def test_joined_points_keep_ids_and_names_without_a_site() -> None:
    apart = points_apart()
    own = sd.Activations(dict(apart), tokens=torch.arange(6), positions=torch.arange(6)).site(("0", "1"))
    joined = own.joined([READS, WRITES])
    assert torch.equal(joined.inputs, own.inputs)
    assert joined.inputs.data_ptr() == joined["0.inputs"].data_ptr()
    assert joined.tokens is own.tokens
    assert joined.positions is own.positions
