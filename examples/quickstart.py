"""The main job on one screen: distil an MLP of the embedded model, and say what the latents are."""

import sparsedict as sd

model = sd.zoo.load_model()
tokens = sd.zoo.tokens("train", n_tokens=60_000)
held_out = sd.zoo.tokens("evaluation", n_tokens=10_000)

site = sd.Site(model, "transformer.h.1.mlp", exclude_tokens=[0])
data = sd.ActivationStream(site, tokens, batch_size=1024, seed=0)

student = sd.SparseDistiller(
    site.d_in, site.d_out, n_latents=4 * site.neurons.n, activation=sd.TopK(k=32), decoder_norm=sd.UnitNorm()
)
coder = sd.SparseAutoencoder(
    site.d_out, n_latents=4 * site.neurons.n, activation=sd.TopK(k=32), decoder_norm=sd.UnitNorm()
)
histories = sd.fit_many(
    {"distiller": sd.Trainee(student, lr=1e-2), "autoencoder": sd.Trainee(coder, lr=1e-2)},
    data,
    n_tokens=60_000,
    progress=False,
)
for name, dictionary in (("distiller", student), ("autoencoder", coder)):
    print(f"{name}: {histories[name]}", sd.evaluate(site, dictionary, held_out), sep="\n", end="\n\n")

match = sd.analysis.match_neurons(student, site.neurons)
dead = sd.analysis.dead_latents(student, data, n_tokens=20_000)
kinds = sd.analysis.latent_types(match, threshold=0.8, dead=dead)
print(kinds)

means = sd.analysis.latent_means(student, data, n_tokens=20_000)
print(sd.analysis.ablated_error(student, data, kinds, means, n_tokens=20_000))
with site.replaced(student, ablate=sd.Ablation(kinds.simulators, means)):
    print("logits without the simulators:", tuple(site.logits(held_out[:1]).shape))

student.save("student")
assert (sd.load("student").encoder == student.encoder).all()
