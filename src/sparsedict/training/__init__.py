"""Training of dictionaries: `fit`, `fit_many`, learning-rate schedules, step hooks, callbacks and records."""

from sparsedict.training import callbacks
from sparsedict.training._anneal_k import AnnealK
from sparsedict.training._fit import fit, fit_many
from sparsedict.training._good_state import NonFiniteLossError
from sparsedict.training._history import History, Record
from sparsedict.training._interrupt import Terminated, exit_on_signal
from sparsedict.training._lazy_adam import LazyAdam
from sparsedict.training._recipe import Recipe
from sparsedict.training._resample import Resample
from sparsedict.training._sharded_latents import ShardedLatents
from sparsedict.training._step_hook import StepHook
from sparsedict.training._trainee import DefaultLR, OptimizerFactory, Trainee, default_lr
from sparsedict.training._units import RelativeLR
from sparsedict.training.schedules import Constant, Cosine, Linear, Schedule

__all__ = [
    "AnnealK",
    "Constant",
    "Cosine",
    "DefaultLR",
    "History",
    "LazyAdam",
    "Linear",
    "NonFiniteLossError",
    "OptimizerFactory",
    "Recipe",
    "Record",
    "RelativeLR",
    "Resample",
    "Schedule",
    "ShardedLatents",
    "StepHook",
    "Terminated",
    "Trainee",
    "callbacks",
    "default_lr",
    "exit_on_signal",
    "fit",
    "fit_many",
]
