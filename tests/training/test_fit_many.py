"""`fit_many` of several dictionaries on one or several sites."""

import pytest
import torch
from torch import nn

import sparsedict as sd

D = 8


def coder(seed: int = 0) -> sd.SparseAutoencoder:
    generator = torch.Generator().manual_seed(seed)
    return sd.SparseAutoencoder(D, 24, activation=sd.ReLU(), decoder_norm=sd.UnitNorm(), generator=generator)


def test_a_sweep_equals_its_single_runs():
    x = torch.randn(2000, D, generator=torch.Generator().manual_seed(0))
    coefficients = (0.0, 0.1, 1.0)
    together = {str(c): sd.Trainee(coder(), penalties=[sd.L1(c)], lr=1e-2) for c in coefficients}
    histories = sd.fit_many(together, x, n_tokens=10_000, batch_size=256, progress=False)
    for c in coefficients:
        alone = coder()
        history = sd.fit(alone, x, n_tokens=10_000, batch_size=256, penalties=[sd.L1(c)], lr=1e-2, progress=False)
        assert torch.equal(alone.encoder, together[str(c)].dictionary.encoder)
        assert history.last.fvu == histories[str(c)].last.fvu
    l0 = [histories[str(c)].last.l0 for c in coefficients]
    assert l0[0] > l0[1] > l0[2]


def three_layers() -> tuple[nn.Module, dict[str, sd.Site]]:
    torch.manual_seed(0)
    mlps = [nn.Sequential(nn.Linear(D, 16), nn.ReLU(), nn.Linear(16, D)) for _ in range(2)]
    model = nn.Sequential(nn.Embedding(30, D), *mlps, nn.Linear(D, 30))
    sites = {"first": sd.Site(model, "1"), "second": sd.Site(model, "2")}
    for site in sites.values():
        # The first capture of a site runs the model once more, to see how often it calls the module. One of a single
        # sequence shows that sequences are the first axis, which square batches don't.
        site.capture(torch.zeros((1, 2), dtype=torch.int64))
    return model, sites


def test_several_sites_are_captured_in_one_pass():
    model, sites = three_layers()
    passes = []
    model[0].register_forward_hook(lambda *_: passes.append(1))
    tokens = torch.randint(30, (32, 32), generator=torch.Generator().manual_seed(1))
    stream = sd.ActivationStream(sites, tokens, batch_size=256, buffer_size=1024)
    trainees = {name: sd.Trainee(coder(), lr=1e-2, site=name) for name in sites}
    harvests_before = len(passes)
    histories = sd.fit_many(trainees, stream, n_tokens=1024, progress=False)
    n_passes = len(passes) - harvests_before
    assert all(history.n_tokens == 1024 for history in histories.values())

    one = coder()
    alone = sd.ActivationStream(sites["second"], tokens, batch_size=256, buffer_size=1024)
    passes.clear()
    sd.fit(one, alone, n_tokens=1024, lr=1e-2, progress=False)
    assert len(passes) == n_passes
    assert torch.allclose(one.encoder, trainees["second"].dictionary.encoder, atol=1e-6)


def test_a_residual_stream_beside_an_mlp():
    model, sites = three_layers()
    both = {"stream": sd.Site(model, reads="0:out", writes="0:out"), "mlp": sites["second"]}
    data = sd.ActivationStream(both, torch.randint(30, (16, 16)), batch_size=64)
    student = sd.SparseDistiller(D, D, 24, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    trainees = {"coder": sd.Trainee(coder(), site="stream"), "student": sd.Trainee(student, site="mlp")}
    histories = sd.fit_many(trainees, data, n_tokens=128, progress=False)
    assert all(history.n_tokens == 128 for history in histories.values())
    with pytest.raises(TypeError, match="`data` must contain inputs and outputs"):
        sd.fit_many({"student": sd.Trainee(student, site="stream")}, data, n_tokens=128, progress=False)


def test_names_reach_callbacks_and_errors():
    x = torch.randn(512, D)
    seen = set()
    trainees = {"a": sd.Trainee(coder(0)), "b": sd.Trainee(coder(1))}
    sd.fit_many(trainees, x, n_tokens=512, progress=False, callbacks=[lambda name, *_: seen.add(name)])
    assert seen == {"a", "b"}
    wide = sd.SparseAutoencoder(D + 1, 24, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    with pytest.raises(ValueError, match=r"`trainees\['b'\].d_in` must equal"):
        sd.fit_many({"a": trainees["a"], "b": sd.Trainee(wide)}, x, n_tokens=512, progress=False)


@pytest.mark.as_installed
def test_bad_trainees_raise():
    x = torch.randn(64, D)
    shared = coder()
    with pytest.raises(ValueError, match="'a' and 'b' train the same dictionary"):
        sd.fit_many({"a": sd.Trainee(shared), "b": sd.Trainee(shared)}, x, n_tokens=64)
    with pytest.raises(ValueError, match="at least one name"):
        sd.fit_many({}, x, n_tokens=64)
    with pytest.raises(TypeError, match=r"`trainees\['a'\]` must be a Trainee"):
        sd.fit_many({"a": coder()}, x, n_tokens=64)
    with pytest.raises(ValueError, match="has one site without a name, got 'first'"):
        sd.fit_many({"a": sd.Trainee(coder(), site="first")}, x, n_tokens=64)


def test_sites_must_be_named_where_there_are_several():
    _, sites = three_layers()
    stream = sd.ActivationStream(sites, torch.randint(30, (8, 32)), batch_size=64, buffer_size=256)
    for site in (None, "third"):
        with pytest.raises(ValueError, match=r"must be one of the data's sites \['first', 'second'\]"):
            sd.fit_many({"a": sd.Trainee(coder(), site=site)}, stream, n_tokens=64)
