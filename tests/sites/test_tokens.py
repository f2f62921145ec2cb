"""Which tokens a site's activations belong to: ids, padding, positions, in models of every form."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsedict as sd
from sparsedict.sites import Site

from . import _models
from ._models import HIDDEN, VOCABULARY, WIDTH

LLAMA = "model.layers.1.mlp"
SEQ2SEQ: dict[str, dict[str, str | tuple[str, str]]] = {
    "t5": {"encoder": "encoder.block.1.layer.1.DenseReluDense", "decoder": "decoder.block.1.layer.2.DenseReluDense"},
    "bart": {
        "encoder": ("model.encoder.layers.1.fc1:in", "model.encoder.layers.1.fc2:out"),
        "decoder": ("model.decoder.layers.1.fc1:in", "model.decoder.layers.1.fc2:out"),
    },
}


def seq2seq(name: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    common = {"vocab_size": VOCABULARY, "d_model": WIDTH, "pad_token_id": 0, "eos_token_id": None}
    if name == "t5":
        config = transformers.T5Config(
            d_ff=HIDDEN, d_kv=8, num_layers=2, num_heads=2, decoder_start_token_id=0, **common
        )
        return transformers.T5ForConditionalGeneration(config).eval()
    layers = {f"{part}_{key}": value for part in SEQ2SEQ["bart"] for key, value in (("layers", 2), ("ffn_dim", HIDDEN))}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "forced_eos_token_id": None}
    config = transformers.BartConfig(
        max_position_embeddings=32, decoder_start_token_id=2, bos_token_id=2, **layers, **heads, **common
    )
    return transformers.BartForConditionalGeneration(config).eval()


def site_of(model: nn.Module, path: str | tuple[str, str], **options: Any) -> Site:
    if isinstance(path, str):
        return Site(model, path, **options)
    return Site(model, reads=path[0], writes=path[1], **options)


@torch.no_grad()
def n_ablated(site: Site, run: Callable[[], object]) -> list[list[int]]:
    """How many positions of each sequence an ablation reached, call by call."""
    found: list[list[int]] = []

    def count(_: nn.Module, __: object, output: Tensor) -> None:
        found.append((output.abs().amax(-1) == 0).sum(-1).tolist())

    with site.ablated():
        handle = site.writes.module.register_forward_hook(count)
        try:
            run()
        finally:
            handle.remove()
    return found


def left_padded(n_padding: int = 2) -> tuple[Tensor, Tensor]:
    ids, mask = _models.tokens(2, 5), torch.ones(2, 5, dtype=torch.int64)
    mask[0, :n_padding] = 0
    return ids, mask


CACHES: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "static": {"cache_implementation": "static", "disable_compile": True},
    "none": {"use_cache": False},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "mistral", "gemma2", "bloom"])
def test_generation_counts_true_positions(family: str, cache: str) -> None:
    windows = {"sliding_window": 4} if family in ("mistral", "gemma2") else {}
    model = _models.hugging_face(family, **windows)
    ids, mask = left_padded()
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **CACHES[cache]}
    for n_first in (0, 1, 6):
        site = site_of(model, _models.FAMILIES[family][3], exclude_first=n_first)
        for given in (torch.ones_like(mask), mask):
            expected = []
            for step in range(6):
                lengths = given.sum(-1) + step
                all_kept = (lengths - n_first).clamp_min(0)
                new = all_kept - (lengths - 1 - n_first).clamp_min(0)
                expected.append((all_kept if step == 0 or cache == "none" else new).tolist())
            assert n_ablated(site, partial(model.generate, ids, attention_mask=given, **options)) == expected


@pytest.mark.filterwarnings("ignore")
def test_beams_chunks_assistants_and_embeddings_are_counted() -> None:
    model = _models.hugging_face("llama", eos_token_id=None)
    ids, mask = left_padded()
    options = {"max_new_tokens": 3, "do_sample": False}
    late = Site(model, LLAMA, exclude_first=6)
    beams = n_ablated(late, lambda: model.generate(ids, attention_mask=mask, num_beams=3, **options))
    assert beams == [[0] * 6, [0] * 6, [0, 0, 0, 1, 1, 1]]
    long = _models.tokens(2, 8)
    chunks = n_ablated(late, lambda: model.generate(long, prefill_chunk_size=3, **options))
    # transformers before 5 leaves the last token of the prompt out of the chunks.
    assert chunks in ([[0, 0], [0, 0], [2, 2], [1, 1], [1, 1]], [[0, 0], [0, 0], [1, 1], [1, 1], [1, 1], [1, 1]])
    assisted = n_ablated(late, lambda: model.generate(long[:1], prompt_lookup_num_tokens=3, eos_token_id=0, **options))
    assert assisted[0] == [2]
    assert min(assisted[1:])[0] >= 1
    embedded = model.get_input_embeddings()(long)
    assert n_ablated(late, lambda: model.generate(inputs_embeds=embedded, **options)) == [[2, 2], [1, 1], [1, 1]]


def test_excluded_tokens_are_those_of_this_call() -> None:
    model = _models.hugging_face("llama", eos_token_id=None)
    ids = _models.tokens(1, 5)
    with torch.no_grad():
        token = int(model(ids).logits[0, -1].argmax())
    site = Site(model, LLAMA, exclude_tokens=[token])
    prompt = (ids != token).sum(-1).tolist()
    with torch.no_grad(), site.ablated():
        whole = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
    made = (whole[:, 5:-1] != token).long()[0]
    found = n_ablated(site, lambda: model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0))
    assert found == [prompt, *([int(n)] for n in made)]


def test_a_cache_of_unknown_length_raises() -> None:
    class Cached(_models.Plain):
        def forward(self, ids: Tensor, cache: object = None, position_ids: Tensor | None = None) -> Tensor:
            return super().forward(ids)

    model, ids = Cached(), _models.tokens(1, 2)
    site = Site(model, "mlp", exclude_first=1)
    with pytest.raises(ValueError, match=r"cache of unknown length.*without a cache"):
        n_ablated(site, lambda: model(ids, cache={"keys": 1}))
    assert n_ablated(site, lambda: model(ids, cache={}, position_ids=torch.tensor([[4, 5]]))) == [[2]]
    keys = torch.zeros(1, 2, 3, 4)
    assert n_ablated(site, lambda: model(ids, cache=((keys, keys), (keys, keys)))) == [[2]]
    assert n_ablated(site, lambda: model(ids, cache=True)) == [[1]]
    assert n_ablated(Site(model, "mlp"), lambda: model(ids, cache={})) == [[2]]


@pytest.mark.parametrize("form", ["boolean", "least", "infinite", "ten thousand", "ones", "opened", "by layer type"])
def test_padding_is_read_from_masks_over_queries_and_keys(form: str) -> None:
    model = _models.hugging_face("gemma2" if form == "by layer type" else "llama", sliding_window=3)
    flat = torch.ones(2, 6, dtype=torch.bool)
    flat[0, :2] = flat[1, 4:] = False
    allowed = (torch.ones(6, 6).tril().bool() & flat[:, None])[:, None]
    lowered = {"least": torch.finfo(torch.float32).min, "infinite": -torch.inf, "ten thousand": -1e4}
    mask: Any = allowed
    if form in lowered:
        mask = torch.zeros(allowed.shape).masked_fill(~allowed, lowered[form])
    elif form == "ones":
        mask = allowed.float()
    elif form == "opened":  # Rows of padding that attend to everything, to keep NaN away.
        mask = allowed | ~allowed.any(-1, keepdim=True)
    elif form == "by layer type":
        mask = {"sliding_attention": allowed & torch.ones(6, 6).triu(-2).bool(), "full_attention": allowed}
    given = {"input_ids": _models.tokens(2, 6), "attention_mask": mask}
    for n_first, expected in ((0, flat), (1, flat & (flat.cumsum(-1) > 1))):
        site = Site(model, LLAMA, exclude_first=n_first)
        assert torch.equal(site.capture(given).mask, expected)
    unpadded = {"input_ids": _models.tokens(2, 6), "attention_mask": torch.ones(6, 6).tril().bool().expand(2, 1, 6, 6)}
    assert Site(model, LLAMA).capture(unpadded).mask.all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_generation_of_a_transformer_lens_bridge(family: str, tmp_path: Path) -> None:
    model = _models.bridge(family, tmp_path)
    found: list[list[int]] = []
    with Site(model, "blocks.1.mlp", exclude_first=1).ablated():
        model.add_hook("blocks.1.hook_mlp_out", lambda x, hook: found.append((x == 0).all(-1).sum(-1).tolist()))
        model.generate(_models.tokens(), max_new_tokens=3, do_sample=False, verbose=False, stop_at_eos=False)
        model.reset_hooks()
    assert found == [[6, 6], [1, 1], [1, 1]]


def test_an_unreadable_mask_raises() -> None:
    class Masked(_models.Plain):
        def forward(self, input_ids: Tensor, attention_mask: object = None) -> Tensor:
            return super().forward(input_ids)

    site = Site(Masked(), "mlp")
    with pytest.raises(ValueError, match=r"`attention_mask` must be a tensor that marks padding, got str"):
        site.capture({"input_ids": _models.tokens(), "attention_mask": "causal"})
    with pytest.raises(ValueError, match="a column for each of the 7 positions"):
        site.capture({"input_ids": _models.tokens(), "attention_mask": torch.ones(2, 3)})


def test_packed_sequences_each_have_a_first_position() -> None:
    model = _models.hugging_face("llama")
    given = {"input_ids": _models.tokens(1, 6), "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]])}
    mask = Site(model, LLAMA, exclude_first=1).capture(given).mask
    assert mask.tolist() == [[False, True, True, False, True, True]]


@pytest.mark.parametrize("family", [name for name in _models.FAMILIES if name != "bloom"])
def test_padding_on_the_left_changes_no_activation(family: str) -> None:
    model = _models.hugging_face(family)
    site = site_of(model, _models.FAMILIES[family][3])
    ids = _models.tokens()
    mask = nn.functional.pad(torch.ones_like(ids), (4, 0))
    expected = site.capture(ids)
    for filler in (0, 7):
        given = {"input_ids": nn.functional.pad(ids, (4, 0), value=filler), "attention_mask": mask}
        found = site.capture(given)
        assert torch.equal(found.mask, mask.bool())
        torch.testing.assert_close(found.outputs[:, 4:], expected.outputs)
        torch.testing.assert_close(site.logits(given)[:, 4:], site.logits(ids), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_one_sequence_is_one_row(family: str) -> None:
    site, ids = site_of(_models.hugging_face(family), _models.FAMILIES[family][3]), _models.tokens()
    found, expected = site.capture(ids[0]), site.capture(ids[:1])
    torch.testing.assert_close(found.outputs, expected.outputs, rtol=0, atol=0)
    torch.testing.assert_close(site.logits(ids[0]), site.logits(ids[:1]), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["RobertaForMaskedLM", "RobertaForCausalLM", "XGLMForCausalLM", "BioGptForCausalLM"])
def test_models_that_begin_at_other_positions(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    sizes = {"vocab_size": VOCABULARY, "num_attention_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 40}
    if name.startswith("XGLM"):
        sizes = {"vocab_size": VOCABULARY, "d_model": WIDTH, "num_layers": 2, "attention_heads": 2, "ffn_dim": HIDDEN}
    else:
        sizes |= {"hidden_size": WIDTH, "intermediate_size": HIDDEN, "is_decoder": "Causal" in name}
    model = kind(kind.config_class(**sizes)).eval()
    path = next(
        path for path, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == 2
    )
    site = Site(model, reads=f"{path}.1:out", writes=f"{path}.1:out", exclude_first=1)
    ids = _models.tokens()
    for filler in (model.config.pad_token_id, 7):
        padded = {
            "input_ids": nn.functional.pad(ids, (3, 0), value=filler),
            "attention_mask": nn.functional.pad(torch.ones_like(ids), (3, 0)),
        }
        found = site.capture(padded)
        torch.testing.assert_close(found.outputs[:, 3:], site.capture(ids).outputs, atol=1e-5, rtol=1e-4)
        assert found.mask.sum(-1).tolist() == [6, 6]
        assert not found.mask[:, 3].any()


class InPlace(_models.Plain):
    """A model that counts its positions from 1, by changing its arguments."""

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        position_ids += 1
        x = self.first(self.embedding(input_ids) + position_ids.unsqueeze(-1))
        input_ids[:] = 0
        return self.head(x + self.mlp(x))


def test_models_may_change_their_arguments() -> None:
    ids, positions = _models.tokens(2, 6), torch.tensor([[0, 1, 2, 0, 1, 2]] * 2)
    model = InPlace()
    expected = model.first(model.embedding(ids) + positions.unsqueeze(-1) + 1)
    site = Site(model, "mlp", exclude_first=1, exclude_tokens=[int(ids[0, 1])])
    kept = (positions > 0) & (ids != ids[0, 1])
    given = {"input_ids": ids.clone(), "position_ids": positions.clone()}
    found = site.capture(given)
    torch.testing.assert_close(found.inputs, expected)
    assert torch.equal(found.mask, kept)
    assert torch.equal(found.tokens, ids)
    assert torch.equal(given["position_ids"], positions)
    assert n_ablated(site, lambda: model(ids.clone(), positions.clone())) == [kept.sum(-1).tolist()]


class Unmasked(_models.Plain):
    """A causal model that disregards the mask it is given."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embedding(input_ids).cumsum(1)
        return self.head(x + self.mlp(x))


@pytest.mark.parametrize("name", ["encoder of bart", "decoder of bart", "a model that ignores its mask"])
def test_padding_on_the_left_that_changes_activations_raises(name: str) -> None:
    bart = name.endswith("bart")
    model = seq2seq("bart") if bart else Unmasked()
    site = site_of(model, SEQ2SEQ["bart"]["encoder"]) if bart else Site(model, "mlp")
    ids = _models.tokens()
    for side in ((0, 3), (3, 0)):
        padded, mask = nn.functional.pad(ids, side, value=7), nn.functional.pad(torch.ones_like(ids), side)
        prefix = "decoder_" if name.startswith("decoder") else ""
        given = {f"{prefix}input_ids": padded, f"{prefix}attention_mask": mask}
        if bart:
            given = {"input_ids": ids, "decoder_input_ids": ids, **given}
        if side == (0, 3):
            assert site.capture(given).mask.sum() == ids.numel()
            site.logits(given)
            continue
        for run in (site.capture, site.logits):
            with pytest.raises(ValueError, match=r"`attention_mask` pads row 0 on the left.*Pad on the right"):
                run(given)


@pytest.mark.parametrize("part", ["", "decoder_"])
def test_padding_on_the_left_of_relative_positions_is_taken(part: str) -> None:
    model, ids = seq2seq("t5"), _models.tokens()
    site = site_of(model, SEQ2SEQ["t5"]["decoder" if part else "encoder"])
    padded, mask = nn.functional.pad(ids, (3, 0), value=7), nn.functional.pad(torch.ones_like(ids), (3, 0))
    bare = {"input_ids": ids, "decoder_input_ids": ids}
    found = site.capture({**bare, f"{part}input_ids": padded, f"{part}attention_mask": mask})
    torch.testing.assert_close(found.outputs[:, 3:], site.capture(bare).outputs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_each_stack_of_an_encoder_decoder_model_has_its_own_tokens(name: str) -> None:
    model = seq2seq(name)
    source, target = _models.tokens(2, 9), _models.tokens(2, 6).flip(1)
    source_mask, target_mask = torch.ones_like(source), torch.ones_like(target)
    source_mask[0, 7:] = target_mask[1, 4:] = 0
    given = {"input_ids": source, "attention_mask": source_mask, "decoder_input_ids": target}
    encoder, decoder = (site_of(model, SEQ2SEQ[name][part]) for part in ("encoder", "decoder"))
    assert torch.equal(encoder.capture(given).mask, source_mask.bool())
    assert torch.equal(encoder.capture(given).tokens, source)
    assert decoder.capture(given).mask.all()
    assert torch.equal(decoder.capture(given).tokens, target)
    both = {**given, "decoder_attention_mask": target_mask}
    assert torch.equal(decoder.capture(both).mask, target_mask.bool())
    first = site_of(model, SEQ2SEQ[name]["decoder"], exclude_first=2, exclude_tokens=[int(target[0, 3])])
    expected = target_mask.bool() & (target != target[0, 3]) & (torch.arange(6) >= 2)
    assert torch.equal(first.capture(both).mask, expected)


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_a_decoder_s_tokens_are_the_shifted_labels(name: str) -> None:
    model = seq2seq(name)
    labels = _models.tokens(2, 6)
    start = model.config.decoder_start_token_id
    site = site_of(model, SEQ2SEQ[name]["decoder"], exclude_tokens=[start])
    found = site.capture({"input_ids": _models.tokens(2, 9), "labels": labels})
    assert torch.equal(found.tokens, nn.functional.pad(labels[:, :-1], (1, 0), value=start))
    assert torch.equal(found.mask, found.tokens != start)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SEQ2SEQ)
def test_generation_of_an_encoder_decoder_model(name: str) -> None:
    model = seq2seq(name)
    source = _models.tokens(2, 9)
    mask = torch.ones_like(source)
    mask[0, 6:] = 0
    options = {"attention_mask": mask, "max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    for beams in (1, 2):
        n = 2 * beams
        for part, kept in (("encoder", [[5, 8]]), ("decoder", [[0] * n, [1] * n, [1] * n, [1] * n])):
            site = site_of(model, SEQ2SEQ[name][part], exclude_first=1)
            assert n_ablated(site, partial(model.generate, source, num_beams=beams, **options)) == kept


class Translator(nn.Module):
    """An encoder-decoder model of no library, with stacks of unknown names."""

    def __init__(self, names: tuple[str, str]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.names = names
        for name in names:
            self.add_module(name, nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH)))

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        first, second = (getattr(self, name) for name in self.names)
        return second(self.embedding(tgt)) + first(self.embedding(src)).mean(1, keepdim=True)


def test_stacks_of_unknown_names_raise_only_where_it_matters() -> None:
    source, target = _models.tokens(2, 5), _models.tokens(2, 5).flip(1)
    token = int(target[0, 0])
    known = Site(Translator(("encoder", "decoder")), "decoder", exclude_tokens=[token])
    given = {"src": source, "tgt": target}
    assert torch.equal(known.capture(given).mask, target != token)
    unknown = Translator(("a", "b"))
    assert Site(unknown, "b").capture(given).mask.all()
    with pytest.raises(ValueError, match=r"is unknown which of the two contains the site.*`encoder` and `decoder`"):
        Site(unknown, "b", exclude_tokens=[token]).capture(given)


def test_masks_that_models_take_apart_from_the_tokens() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, WIDTH)
            layer = nn.TransformerEncoderLayer(WIDTH, 2, HIDDEN, batch_first=True, dropout=0.0)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.encoder(self.embedding(batch["words"]), src_key_padding_mask=batch["padding"])

    model, ids = Wrapped().train(), _models.tokens(2, 5)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[0, 3:] = True
    site = Site(model, reads="encoder.layers.1.linear1:in", writes="encoder.layers.1.linear2:out", exclude_first=1)
    found = n_ablated(site, lambda: model({"words": ids, "padding": padding}))
    assert found == [[2, 4]]
    token = int(ids[1, 2])
    by_token = Site(model, reads=str(site.reads), writes=str(site.writes), exclude_tokens=[token])
    expected = ((ids != token) & ~padding).sum(-1).tolist()
    assert n_ablated(by_token, lambda: model({"words": ids, "padding": padding})) == [expected]


def test_a_part_that_is_recomputed_has_the_tokens_of_its_forward_pass() -> None:
    model = _models.hugging_face("llama")
    site = Site(model, LLAMA, exclude_first=4)
    ids = _models.tokens(1, 6)
    with torch.no_grad(), site.ablated():
        model(ids)
        output = site.writes.module(torch.randn(1, 6, WIDTH))
        found = (output.abs().amax(-1) == 0).sum(-1).tolist()
    assert found == [2]


@pytest.mark.parametrize("name", ["capture", "logits"])
@pytest.mark.parametrize("bad", [VOCABULARY, -1, -100])
@pytest.mark.parametrize("form", ["tensor", "mapping"])
def test_ids_outside_of_the_vocabulary_raise(name: str, bad: int, form: str) -> None:
    site = Site(_models.hugging_face("llama"), LLAMA)
    ids = torch.ones(3, 4, dtype=torch.long)
    ids[1, 2] = bad
    tokens = ids if form == "tensor" else {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with pytest.raises(
        ValueError, match=rf"`tokens` must be ids from 0 to {VOCABULARY - 1}, .* LlamaForCausalLM, .* {bad} in row 1"
    ):
        getattr(site, name)(tokens)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.int16])
def test_ids_of_narrow_types(dtype: torch.dtype) -> None:
    site, ids = Site(_models.hugging_face("llama"), LLAMA), _models.tokens()
    expected = site.capture(ids).outputs
    assert torch.equal(site.capture(ids.to(dtype)).outputs, expected)
    assert torch.equal(site.capture({"input_ids": ids.to(dtype)}).outputs, expected)


@pytest.mark.parametrize("key", ["input_ids", "attention_mask"])
def test_a_tokenizer_s_lists_and_arrays_raise(key: str) -> None:
    site, ids = Site(_models.hugging_face("llama"), LLAMA), _models.tokens()
    for value in (torch.ones_like(ids).tolist(), torch.ones_like(ids).numpy()):
        with pytest.raises(TypeError, match=rf"`tokens\['{key}'\]` must be a tensor .*return_tensors='pt'"):
            site.capture({"input_ids": ids, key: value})


@pytest.mark.parametrize("exclude_first", [0, 1])
def test_activations_with_positions_first_raise(exclude_first: int) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.XLNetConfig(vocab_size=VOCABULARY, d_model=WIDTH, n_layer=1, n_head=2, d_inner=HIDDEN)
    model = transformers.XLNetModel(config).eval()
    site, ids = Site(model, "layer.0.ff", exclude_first=exclude_first), _models.tokens(3, 5)
    with pytest.raises(ValueError, match=r"as the tokens \(3, 5\) do, got \(5, 3\)"):
        site.capture(ids)
    one = site.capture(ids[:1])
    assert one.mask.tolist() == [[position >= exclude_first for position in range(5)]]


class PositionsFirst(nn.Module):
    """Embeds the tokens of an encoder, or of an encoder and a decoder, and exchanges the axes for its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(WIDTH, 2, HIDDEN, dropout=0.0), 1, enable_nested_tensor=False
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.encoder(self.embed(input_ids).transpose(0, 1)).transpose(0, 1)


class TwoStacks(PositionsFirst):
    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(src) + self.embed(tgt)


def positions_first(name: str) -> tuple[nn.Module, str]:
    torch.manual_seed(0)
    if name != "xlnet":
        return (PositionsFirst() if name == "encoder" else TwoStacks()).train(), "encoder.layers.0.linear1"
    transformers = pytest.importorskip("transformers")
    config = transformers.XLNetConfig(vocab_size=VOCABULARY, d_model=WIDTH, n_layer=1, n_head=2, d_inner=HIDDEN)
    return transformers.XLNetModel(config).eval(), "layer.0.ff.layer_1"


@pytest.mark.parametrize("name", ["xlnet", "encoder", "two stacks"])
@pytest.mark.parametrize("kind", ["capture", "replaced"])
def test_positions_first_raise_if_there_are_as_many_sequences_as_positions(name: str, kind: str) -> None:
    model, path = positions_first(name)
    site, ids = Site(model, path, exclude_first=1), torch.ones(5, 5, dtype=torch.long)
    given = {"src": ids, "tgt": ids} if name == "two stacks" else {"input_ids": ids}
    training = model.training

    def run() -> None:
        if kind == "capture":
            site.capture(given)
            return
        width = site.writes.module.out_features
        transcoder = sd.SparseDistiller(WIDTH, width, 4, activation=sd.TopK(2), decoder_norm=sd.Free())
        with site.replaced(transcoder):
            model(**given)

    with pytest.raises(ValueError, match=r"at `.*` must have sequences as their first dimension, as the tokens \(5, 5"):
        run()
    assert model.training == training
    if name != "two stacks":
        one = {key: value[:1] for key, value in given.items()}
        assert site.capture(one).mask.tolist() == [[False, True, True, True, True]]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
def test_as_many_sequences_as_positions(name: str) -> None:
    model, path = _models.hugging_face(name), _models.FAMILIES[name][-1]
    site = site_of(model, path, exclude_first=1)
    ids = torch.randint(1, VOCABULARY, (6, 6), generator=torch.Generator().manual_seed(0))
    expected = torch.cat([site.capture(ids[i : i + 1]).outputs for i in range(6)])
    torch.testing.assert_close(site.capture(ids).outputs, expected)
    assert n_ablated(site, lambda: model(ids)) == [[5] * 6]


def test_ids_of_a_decoder_outside_of_its_vocabulary_raise() -> None:
    site = Site(seq2seq("t5"), str(SEQ2SEQ["t5"]["decoder"]))
    ids = torch.ones(2, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"`decoder_input_ids` must be ids .* -100 marks labels"):
        site.capture({"input_ids": ids, "decoder_input_ids": ids.masked_fill(ids == 1, -100)})


def test_rows_beyond_a_table_of_positions_raise_but_rotary_ones_run() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=1, n_head=2, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    site = Site(transformers.GPT2LMHeadModel(config), "transformer.h.0.mlp")
    assert site.capture(torch.ones(1, 8, dtype=torch.long)).outputs.shape[1] == 8
    with pytest.raises(
        ValueError,
        match="Rows of `tokens` must have at most 8 tokens, the maximum length of the GPT2LMHeadModel, got 9",
    ):
        site.capture(torch.ones(1, 9, dtype=torch.long))
    llama = _models.hugging_face("llama")
    llama.config.max_position_embeddings = 8
    assert Site(llama, LLAMA).capture(torch.ones(1, 9, dtype=torch.long)).outputs.shape[1] == 9


def test_the_ids_of_images_are_left_to_models_that_take_these() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.mlp = nn.Embedding(20, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
            return self.mlp(torch.where(input_ids[..., None] < 0, pixel_values, self.token(input_ids.clamp_min(0))))

    given = {"input_ids": torch.tensor([[3, -200, 4]]), "pixel_values": torch.ones(1, 1, WIDTH)}
    assert Site(Model(), "mlp").capture(given).outputs.shape == (1, 3, WIDTH)


def test_positions_before_tokens_in_a_module_do_not_pass_for_the_vocabulary() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position, self.token = nn.Embedding(4, WIDTH), nn.Embedding(20, WIDTH)
            self.mlp = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH))

        def forward(self, ids: Tensor) -> Tensor:
            return self.mlp(self.token(ids) + self.position.weight[: ids.shape[1]])

    site = Site(Model(), "mlp")
    assert site.capture(torch.full((1, 4), 19)).outputs.shape == (1, 4, WIDTH)
    with pytest.raises(ValueError, match="ids from 0 to 19"):
        site.capture(torch.full((1, 4), 20))


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
def test_stacks_a_level_down_have_their_own_tokens() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(VOCABULARY, WIDTH)
            self.body = nn.Transformer(WIDTH, 2, 2, 2, HIDDEN, dropout=0.0, batch_first=True)

        def forward(self, src: Tensor, tgt: Tensor, tgt_key_padding_mask: Tensor | None = None) -> Tensor:
            later = nn.Transformer.generate_square_subsequent_mask(tgt.shape[1])
            embedded = self.embed(src), self.embed(tgt)
            return self.body(*embedded, tgt_mask=later, tgt_key_padding_mask=tgt_key_padding_mask)

    model = Wrapped()
    src, tgt = _models.tokens(2, 7), _models.tokens(2, 4)
    padding = torch.tensor([[False, False, False, True], [False] * 4])
    for stack, ids, expected in (("encoder", src, [6, 6]), ("decoder", tgt, [2, 3])):
        path = f"body.{stack}.layers.1.linear"
        site = Site(model, reads=f"{path}1:in", writes=f"{path}2:out", exclude_first=1)
        run = partial(model, src, tgt, tgt_key_padding_mask=padding)
        assert n_ablated(site, run) == [expected]
        seen = site.capture({"src": src, "tgt": tgt, "tgt_key_padding_mask": padding})
        assert torch.equal(seen.tokens, ids)


def test_the_order_of_axes_needs_no_pass_of_its_own_after_a_capture() -> None:
    site = Site(_models.hugging_face("llama"), LLAMA)
    n_passes: list[int] = []
    site.model.get_input_embeddings().register_forward_hook(lambda *_: n_passes.append(1))
    site.capture(torch.ones(6, 6, dtype=torch.long))
    assert len(n_passes) == 2  # the first capture of a site counts the calls of its modules
    site.capture(torch.ones(6, 6, dtype=torch.long))
    with site.replaced(site.neurons):
        site.model(torch.ones(6, 6, dtype=torch.long), attention_mask=torch.ones(6, 6, dtype=torch.long))
    assert len(n_passes) == 4
