"""Dictionaries: sparse distillers (transcoders) and sparse autoencoders behind one interface."""

from sparsedict.dictionaries._autoencoder import InputOffset, SparseAutoencoder
from sparsedict.dictionaries._blocks import Block, entries_at
from sparsedict.dictionaries._dictionary import Dictionary, ForwardPass, Rows
from sparsedict.dictionaries._distiller import SparseDistiller, Transcoder
from sparsedict.dictionaries._encoder_decoder import EncoderDecoder
from sparsedict.dictionaries._exported import Exported
from sparsedict.dictionaries._paths import DENSE_SHARE
from sparsedict.dictionaries._read import read
from sparsedict.dictionaries._scales import Scales

__all__ = [
    "Block",
    "DENSE_SHARE",
    "Dictionary",
    "EncoderDecoder",
    "Exported",
    "ForwardPass",
    "InputOffset",
    "Rows",
    "Scales",
    "SparseAutoencoder",
    "SparseDistiller",
    "Transcoder",
    "entries_at",
    "read",
]
