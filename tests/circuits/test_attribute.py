"""Arguments of `attribute` and their errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import sparsedict as sd
from circuits._models import all_sites, assert_complete, transcoders
from sites import _models
from sparsedict.circuits import AttributionGraph, Latent, Logit, LogitDifference, NotAffineError, TopLogits, attribute
from sparsedict.circuits._attribute import require_complete
from sparsedict.circuits._cut import CutModel, Pass

TOKENS = _models.tokens(1)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return _models.hugging_face("gpt2").double()


@pytest.fixture(scope="module")
def sites(model: nn.Module) -> sd.Sites:
    return all_sites("gpt2", model)


@pytest.fixture(scope="module")
def dictionaries(sites: sd.Sites) -> dict[str, sd.SparseDistiller]:
    return transcoders(sites, torch.float64)


def test_top_logits(model, sites, dictionaries) -> None:
    probabilities = model(TOKENS).logits[0, -1].softmax(-1)
    graph = attribute(sites, dictionaries, TOKENS, targets=TopLogits(0.1, at_most=50))
    targets = [graph.nodes[i] for i in graph.targets.tolist()]
    assert sum(node.probability for node in targets) >= 0.1
    assert sum(node.probability for node in targets[:-1]) < 0.1
    order = probabilities.argsort(descending=True)[: len(targets)]
    assert [node.token for node in targets] == order.tolist()
    torch.testing.assert_close(graph.weights[graph.targets], probabilities[order] / probabilities[order].sum())
    assert len(attribute(sites, dictionaries, TOKENS).targets) == 10
    assert len(attribute(sites, dictionaries, TOKENS, targets=TopLogits(1.0, at_most=3)).targets) == 3


@pytest.mark.parametrize(
    "tokens",
    [TOKENS[0], TOKENS[0].tolist(), {"input_ids": TOKENS}, {"input_ids": TOKENS, "attention_mask": TOKENS != -1}],
    ids=["row", "list", "mapping", "mask"],
)
def test_forms_of_tokens(sites, dictionaries, tokens) -> None:
    expected = attribute(sites, dictionaries, TOKENS, targets=[3])
    graph = attribute(sites, dictionaries, tokens, targets=3)
    torch.testing.assert_close(graph.edges, expected.edges)
    assert graph.nodes == expected.nodes


def test_prompt_of_one_token(sites, dictionaries) -> None:
    graph = attribute(sites, dictionaries, TOKENS[:, :1], targets=[3])
    assert_complete(graph)
    assert len(graph.of_kind("token")) == 1


def test_targets_of_all_kinds(model, sites, dictionaries) -> None:
    whole = attribute(sites, dictionaries, TOKENS, targets=[3])
    inner = next(node for node in whole.nodes if node.kind == "latent" and node.layer == 2)
    targets = [5, Logit(3, -2, centred=False), LogitDifference(4, 6), Latent("2", inner.latent, inner.position)]
    graph = attribute(sites, dictionaries, TOKENS, targets=targets)
    assert_complete(graph)
    logits = model(TOKENS).logits[0]
    values = graph.values[graph.targets]
    torch.testing.assert_close(values[0], logits[-1, 5] - logits[-1].mean())
    torch.testing.assert_close(values[1], logits[-2, 3])
    torch.testing.assert_close(values[2], logits[-1, 4] - logits[-1, 6])
    torch.testing.assert_close(values[3], whole.values[whole.nodes.index(inner)])
    assert graph.checked is not None
    torch.testing.assert_close(graph.checked.predicted, graph.checked.frozen, atol=1e-9, rtol=1e-7)
    same = [i for i, node in enumerate(graph.nodes) if node == inner]
    if same:
        torch.testing.assert_close(graph.edges[same[0]], graph.edges[graph.targets[3]])
    assert len(attribute(sites, dictionaries, TOKENS, targets=torch.tensor([3, 4]), max_latents=1).targets) == 2


def test_latent_targets_without_a_column_of_their_own(sites, dictionaries) -> None:
    """A latent can be a target even if the limit leaves it out."""
    whole = attribute(sites, dictionaries, TOKENS, targets=[3])
    latents = [node for node in whole.nodes if node.kind == "latent" and node.layer == 1]
    for node in latents[:5]:
        target = Latent("1", node.latent, node.position)
        assert_complete(attribute(sites, dictionaries, TOKENS, targets=target, max_latents=1))


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (50, ValueError, "`token` must be an id from 0 to 49, the vocabulary of the model, got 50"),
        ([-1], ValueError, "`targets` must be at least 0, got -1"),
        ([], ValueError, "`targets` must name at least one target"),
        ("a", TypeError, "must be a Target|`targets`"),
        (["a"], TypeError, "`targets`"),
        (Logit(3, 7), ValueError, "`position` must be from -7 to 6 for this prompt of 7 tokens, got 7"),
        (LogitDifference(3, 60), ValueError, "`other` must be an id from 0 to 49"),
        (Latent("9", 0), ValueError, "`layer` must be a site with a dictionary, any of"),
        (Latent("0", 47_000), ValueError, "`latent` must be from 0 to 47 in '0', got 47000"),
    ],
)
@pytest.mark.as_installed
def test_targets_that_do_not_exist(sites, dictionaries, targets, error, message) -> None:
    with pytest.raises(error, match=message):
        attribute(sites, dictionaries, TOKENS, targets=targets)


@pytest.mark.as_installed
def test_other_errors(model, sites, dictionaries) -> None:
    def fails(message: str, given=sites, x=dictionaries, tokens=TOKENS, error=ValueError, **options) -> None:
        with pytest.raises(error, match=message):
            attribute(given, x, tokens, **{"targets": [3], **options})

    fails("`tokens` must be one prompt of at least one token", tokens=_models.tokens(2))
    fails("`tokens` must be one prompt of at least one token", tokens=TOKENS[:, :0])
    fails("`tokens` must be one prompt", tokens={"input_ids": _models.tokens(2)})
    fails("`tokens` must be the token ids of one prompt", tokens=torch.zeros(1, 3, 16), error=TypeError)
    fails("`tokens` must be the token ids of one prompt", tokens="text", error=TypeError)
    fails("vocabulary", tokens=torch.tensor([[3, 50]]))
    padded = torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
    fails("'attention_mask'\\]` must be 1.* Remove the padding", tokens={"input_ids": TOKENS, "attention_mask": padded})
    fails("'attention_mask'\\]` must be 1", tokens={"input_ids": TOKENS, "attention_mask": [0, 1, 1, 1, 1, 1, 1]})
    fails("`max_latents` must be at least 1", max_latents=0)
    fails("`check` must be at least 0", check=-1)
    fails("'9'", x={"9": dictionaries["0"]})
    wide = sd.SparseDistiller(17, 16, 8, activation=sd.TopK(2), decoder_norm=sd.Free())
    fails("`dictionaries\\['1'\\].d_in` must be 16, the width of the sites \\['1'\\], got 17", x={"1": wide})
    narrow = sd.SparseDistiller(16, 8, 8, activation=sd.TopK(2), decoder_norm=sd.Free())
    fails("d_out` must be 16", x={"1": narrow})
    sae = sd.SparseAutoencoder(16, 8, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())
    fails("must read the inputs of MLPs, as transcoders do.*reads '1.outputs'", x={"1": sae})
    fails("encode", x={"1": nn.Linear(16, 16)}, error=TypeError)
    other = all_sites("gpt2", _models.hugging_face("gpt2"))
    fails("`sites` must be sites of one model", given={"0": sites["0"], "1": other["1"]})
    residual = sd.Site(model, reads="transformer.h.0:out", writes="transformer.h.0:out")
    fails("must read and write different points", given={"0": residual})
    fails("`tokenizer` must have `decode` or be a function", tokenizer=3, error=TypeError)
    fails("`dictionaries` must be a dictionary", x=None, error=TypeError)
    fails("`progress` must be True or False", progress="no", error=TypeError)
    backwards = sd.Site(model, reads="transformer.h.1.mlp:in", writes="transformer.h.0.mlp:out")
    fails("must read before it writes", given={"a": backwards}, x={})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    model = _models.hugging_face("gpt2").to(dtype)
    sites = all_sites("gpt2", model)
    with pytest.raises(ValueError, match=rf"must be in float32 or float64.* got weights of {dtype}.*`\.float\(\)`"):
        attribute(sites, transcoders(sites, dtype), TOKENS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dictionaries_in_half_precision(sites, dtype: torch.dtype) -> None:
    with pytest.raises(
        ValueError, match=rf"`dictionaries\['0'\]` must be in float32 or float64, got weights of {dtype}"
    ):
        attribute(sites, transcoders(sites, dtype), TOKENS)


def test_only_the_logits_of_targets_are_computed(sites, dictionaries, monkeypatch) -> None:
    wanted = {"targets": [3, Logit(4, 1)], "check": 2}
    graph = attribute(sites, dictionaries, TOKENS, **wanted)
    widths: list[int] = []
    run = CutModel._run

    def counted(self: CutModel, *args: Any) -> Pass:
        found = run(self, *args)
        widths.append(found.logits.shape[1])
        return found

    monkeypatch.setattr(CutModel, "_run", counted)
    assert_same(attribute(sites, dictionaries, TOKENS, **wanted), graph)
    # The recorded pass, those that test whether the model is affine, and the first restricted one.
    assert widths[:5] == [7, 7, 7, 7, 2]
    assert set(widths[4:]) == {2}
    monkeypatch.setattr(CutModel, "restrict_logits", lambda _, first, __: first)
    assert_same(attribute(sites, dictionaries, TOKENS, **wanted), graph)


def assert_same(graph: AttributionGraph, other: AttributionGraph) -> None:
    for name in ("edges", "values", "constants"):
        torch.testing.assert_close(getattr(graph, name), getattr(other, name), atol=1e-9, rtol=1e-7)
    assert graph.checked is not None
    assert other.checked is not None
    torch.testing.assert_close(graph.checked.unfrozen, other.checked.unfrozen, atol=1e-9, rtol=1e-7)


def test_dictionaries_in_single_precision(sites) -> None:
    graph = attribute(sites, transcoders(sites, torch.float32), TOKENS, targets=[3])
    assert graph.completeness_error < 1e-5


def test_a_graph_must_be_complete(sites, dictionaries) -> None:
    graph = attribute(sites, dictionaries, TOKENS, targets=[3], check=0)
    require_complete(graph)
    edges = graph.edges.clone()
    latent = int(graph.of_kind("latent")[-1])
    edges[latent, 0] += 0.01 * (edges[latent].abs().sum() + graph.constants[latent].abs())
    for wrong in (edges, edges * torch.nan):
        with pytest.raises(NotAffineError, match="Values must be the sums of their direct effects and constants"):
            require_complete(replace(graph, edges=wrong))


def test_model_in_training_mode(dictionaries) -> None:
    model = _models.hugging_face("gpt2", resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5).double()
    sites = all_sites("gpt2", model)
    expected = attribute(sites, dictionaries, TOKENS, targets=[3])
    model.train()
    for dictionary in dictionaries.values():
        dictionary.train()
    graph = attribute(sites, dictionaries, TOKENS, targets=[3])
    torch.testing.assert_close(graph.edges, expected.edges)
    torch.testing.assert_close(graph.check(3).unfrozen, expected.check(3).unfrozen)
    assert all(module.training for module in model.modules())
    assert all(dictionary.training for dictionary in dictionaries.values())
    for dictionary in dictionaries.values():
        dictionary.eval()


def test_callers_state_does_not_matter(sites, dictionaries) -> None:
    expected = attribute(sites, dictionaries, TOKENS, targets=[3])
    with torch.inference_mode():
        graph = attribute(sites, dictionaries, TOKENS, targets=[3])
    torch.testing.assert_close(graph.edges, expected.edges)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        graph = attribute(sites, dictionaries, TOKENS, targets=[3])
    torch.testing.assert_close(graph.edges, expected.edges)
    assert torch.equal(graph.edges, attribute(sites, dictionaries, TOKENS, targets=[3]).edges)


def test_model_is_unchanged(model, sites, dictionaries) -> None:
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    attribute(sites, dictionaries, TOKENS, targets=[3])
    with pytest.raises(ValueError, match="`token`"):
        attribute(sites, dictionaries, TOKENS, targets=[99])
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("family", ["gpt2", "bert", "opt", "llama"])
def test_sites_are_found(family: str) -> None:
    model = _models.hugging_face(family)
    expected = all_sites(family, model)
    found = sd.circuits.find_sites(model)
    assert list(found) == ["0", "1", "2"]
    for name, site in found.items():
        assert site.writes == expected[name].writes
    if family != "bert":
        with sd.circuits.frozen(model, TOKENS) as held:
            assert held.deviation < 1e-5
    with pytest.raises(ValueError, match="MLPs of the Linear weren't found"):
        sd.circuits.find_sites(nn.Linear(3, 3))


def test_sites_in_nested_and_flat_containers() -> None:
    def mlp() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = mlp()

    ends = nn.Embedding(50, 16), nn.Linear(16, 50)
    nested = nn.Sequential(ends[0], nn.Sequential(Block(), Block(), Block()), ends[1])
    found = sd.circuits.find_sites(nested)
    assert {name: site.writes.path for name, site in found.items()} == {str(i): f"1.{i}.mlp" for i in range(3)}
    flat = sd.circuits.find_sites(nn.Sequential(ends[0], mlp(), mlp(), ends[1]))
    assert {name: site.writes.path for name, site in flat.items()} == {"1": "1", "2": "2"}


def test_memory_limits_the_batch(sites, dictionaries) -> None:
    expected = attribute(sites, dictionaries, TOKENS, targets=[3, 4])
    graph = attribute(sites, dictionaries, TOKENS, targets=[3, 4], memory=1)
    torch.testing.assert_close(graph.edges, expected.edges)


def test_memory_limits_the_copies_of_the_prompt(sites, dictionaries, monkeypatch) -> None:
    widths: list[int] = []
    forward = nn.Embedding.forward

    def counted(self: nn.Embedding, tokens: torch.Tensor) -> torch.Tensor:
        widths.append(len(tokens))
        return forward(self, tokens)

    expected = attribute(sites, dictionaries, TOKENS, targets=[3], check=8)
    monkeypatch.setattr(nn.Embedding, "forward", counted)
    graph = attribute(sites, dictionaries, TOKENS, targets=[3], memory=1, check=8)
    assert max(widths) == 1
    for (_, *found), (_, *wanted) in zip(graph.checked.rows(), expected.checked.rows(), strict=True):
        assert found == pytest.approx(wanted, rel=1e-3)
    widths.clear()
    attribute(sites, dictionaries, TOKENS, targets=[3], check=8)
    assert max(widths) == 8


@pytest.mark.parametrize("kind", ["plain", "scaled", "hooked", "subclass", "by_position", "flat"])
def test_unembeddings_that_are_not_plain_linear_maps(kind: str) -> None:
    class Head(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm = nn.Embedding(20, 8), nn.LayerNorm(8)
            self.mlp = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
            self.lm_head = (Head if kind == "subclass" else nn.Linear)(8, 20)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.embed(tokens)
            hidden = self.norm(x + self.mlp(x))
            if kind == "flat":
                return self.lm_head(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
            logits = self.lm_head(hidden)
            if kind == "by_position":  # at some positions alone, these would be other scales
                return logits * torch.arange(1, logits.shape[1] + 1)[:, None]
            return logits * (3 if kind == "scaled" else 1)

    torch.manual_seed(0)
    model = Model().double()
    if kind == "hooked":
        model.lm_head.register_forward_hook(lambda _, __, output: 2 * output)
    site = sd.Site(model, "mlp")
    targets = [3, sd.circuits.Logit(4, 1), sd.circuits.LogitDifference(5, 6)]
    graph = attribute(site, site.neurons, torch.tensor([1, 2, 3]), targets=targets)
    torch.testing.assert_close(graph.edges.sum(1) + graph.constants, graph.values, atol=1e-10, rtol=1e-10)
    logits = model(torch.tensor([[1, 2, 3]]))[0].detach()
    expected = torch.stack(
        [logits[2, 3] - logits[2].mean(), logits[1, 4] - logits[1].mean(), logits[2, 5] - logits[2, 6]]
    )
    torch.testing.assert_close(graph.values[graph.targets], expected)


def test_labels(sites, dictionaries, capsys) -> None:
    graph = attribute(sites, dictionaries, TOKENS, targets=[3], tokenizer=lambda token: f"<{token}>", progress=True)
    assert graph.nodes[0].label == repr(f"<{int(TOKENS[0, 0])}>")
    assert graph.nodes[-1].label == "'<3>'"
    assert "attributing" in capsys.readouterr().err
