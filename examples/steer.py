"""Sets a latent to fixed values in the running model, and adds the dictionary's error to its output."""

from typing import Any

import torch

import sparsedict as sd

model, tokenizer = sd.zoo.load_model(), sd.zoo.load_tokenizer()
tokens = sd.zoo.tokens("train", n_tokens=100_000)
site = sd.Site(model, "transformer.h.2.mlp", exclude_tokens=[0])
transcoder = sd.SparseDistiller(site.d_in, site.d_out, 512, activation=sd.TopK(16), decoder_norm=sd.UnitNorm())
data = sd.ActivationStream(site, tokens, batch_size=512)
print(sd.fit(transcoder, data, n_tokens=100_000, progress=False))

# Select the latent whose decoder row raises the logit of one token most, according to the model's output matrix.
word = tokenizer(" None", add_special_tokens=False)["input_ids"][0]
direction = model.lm_head.weight[word].detach()
latent = int((transcoder.decoder.detach() @ direction).argmax())
shown = sd.analysis.top_examples(site, transcoder, tokens[:100], latents=[latent], n_examples=3, context=(8, 2))
for example in shown[latent].examples:
    print(f"{example.max:6.2f}  {tokenizer.decode(example.tokens)!r}")

prompt = torch.tensor([[0, *tokenizer("        return", add_special_tokens=False)["input_ids"]]])


@torch.no_grad()
def probability(**replacement: Any) -> float:
    """Returns the probability of the token after the prompt, with the dictionary in the MLP's place."""
    with site.replaced(transcoder, error_term=True, **replacement):
        return float(site.logits(prompt)[0, -1].softmax(-1)[word])


with torch.no_grad():
    original = float(site.logits(prompt)[0, -1].softmax(-1)[word])
# With the error term, a replacement without an intervention computes the original activations.
assert abs(probability() - original) < 1e-6
print(f"probability of ' None': {original:.2%} without an intervention")
for value in (0.0, 5.0, 10.0, 20.0):
    print(f"  latent {latent} at {value:4.1f}: {probability(intervention=sd.Clamp({latent: value})):.2%}")
