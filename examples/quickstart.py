"""Trains two dictionaries on an MLP of the embedded model, evaluates them, and classifies their latents."""

import sparsedict as sd

model = sd.zoo.load_model()
tokens = sd.zoo.tokens("train", n_tokens=300_000)
held_out = sd.zoo.tokens("evaluation", n_tokens=20_000)

site = sd.Site(model, "transformer.h.2.mlp", exclude_tokens=[0])
data = sd.ActivationStream(site, tokens, batch_size=512)

n_latents = 2 * site.neurons.n
parts = {"activation": sd.BatchTopK(32), "decoder_norm": sd.UnitNorm()}
transcoder = sd.SparseDistiller(site.d_in, site.d_out, n_latents, input_norm=sd.InputCentre(), **parts)
sae = sd.SparseAutoencoder(site.d_out, n_latents, **parts)
trainees = {
    name: sd.Trainee(dictionary, **sd.studies.recommended_options(dictionary))
    for name, dictionary in {"transcoder": transcoder, "sae": sae}.items()
}
histories = sd.fit_many(trainees, data, n_tokens=300_000, progress=False)
evaluations = {}
for name, dictionary in (("transcoder", transcoder), ("sae", sae)):
    evaluations[name] = sd.evaluate(site, dictionary, held_out)
    print(f"{name}: {histories[name]}", evaluations[name], sep="\n", end="\n\n")

match = sd.analysis.match_neurons(transcoder, site.neurons)
types = sd.analysis.latent_types(match, threshold=0.8, dead=evaluations["transcoder"].dead)
print(types)

means = sd.analysis.latent_means(transcoder, data, n_tokens=20_000)
print(sd.analysis.ablated_error(transcoder, data, types, means, n_tokens=20_000))
with site.replaced(transcoder, intervention=sd.Ablation(types.simulators, means)):
    print("logits without the simulators:", tuple(site.logits(held_out[:1]).shape))

transcoder.save("transcoder")
assert (sd.load("transcoder").encoder == transcoder.encoder).all()
