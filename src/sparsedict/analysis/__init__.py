"""Analysis of trained dictionaries: evaluation, firing frequencies, neuron matching, ablations and examples.

All functions are pure. They accept a `Dictionary`, and in many cases a tensor or an object of another library with
``encode`` and ``decode``. Results are deterministic: the masked tokens of masked language models are drawn with a fixed
seed.
"""

from sparsedict.analysis import diagnosis, ratings, scores
from sparsedict.analysis._ablated_error import AblatedError, ReconstructionError, ablated_error
from sparsedict.analysis._calibrate import Calibration, calibrate_threshold
from sparsedict.analysis._clusters import Clusters, clusters
from sparsedict.analysis._collect import collect
from sparsedict.analysis._correlation import SimulatorCorrelation, simulator_correlation
from sparsedict.analysis._decoder_shares import DecoderShares, decoder_shares
from sparsedict.analysis._detection import Detection
from sparsedict.analysis._dictionary_match import DictionaryMatch, match_dictionaries
from sparsedict.analysis._evaluate import Evaluation, evaluate
from sparsedict.analysis._examples import Example, ExampleTable
from sparsedict.analysis._feature_recovery import FeatureRecovery, feature_recovery
from sparsedict.analysis._firing import DeadLatents, FiringFrequencies, dead_latents, firing_frequencies, latent_means
from sparsedict.analysis._latent_records import Histograms, LatentRecords, Partners
from sparsedict.analysis._latent_types import LatentTypes, latent_types
from sparsedict.analysis._loss_recovered import loss_recovered
from sparsedict.analysis._neighbours import Neighbours, neighbours
from sparsedict.analysis._neuron_match import NeuronMatch, match_neurons
from sparsedict.analysis._recovered import LossRecovered
from sparsedict.analysis._site_dictionary import SiteDictionary, site_dictionaries
from sparsedict.analysis._sites_evaluation import DictionaryUse, SiteEvaluation, SitesEvaluation
from sparsedict.analysis._token_effects import TokenEffects, token_effects
from sparsedict.analysis._top_examples import TopExamples, top_examples
from sparsedict.analysis.diagnosis import Diagnosis, diagnose

__all__ = [
    "AblatedError",
    "Calibration",
    "Clusters",
    "DeadLatents",
    "DecoderShares",
    "Detection",
    "Diagnosis",
    "DictionaryMatch",
    "DictionaryUse",
    "Evaluation",
    "Example",
    "ExampleTable",
    "FeatureRecovery",
    "FiringFrequencies",
    "Histograms",
    "LatentRecords",
    "LatentTypes",
    "LossRecovered",
    "Neighbours",
    "NeuronMatch",
    "Partners",
    "SiteDictionary",
    "ReconstructionError",
    "SimulatorCorrelation",
    "SiteEvaluation",
    "SitesEvaluation",
    "TokenEffects",
    "TopExamples",
    "ablated_error",
    "calibrate_threshold",
    "clusters",
    "collect",
    "dead_latents",
    "decoder_shares",
    "diagnose",
    "diagnosis",
    "evaluate",
    "feature_recovery",
    "firing_frequencies",
    "latent_means",
    "latent_types",
    "loss_recovered",
    "match_dictionaries",
    "match_neurons",
    "neighbours",
    "site_dictionaries",
    "ratings",
    "scores",
    "simulator_correlation",
    "token_effects",
    "top_examples",
]
