"""Dictionaries: sparse distillers (transcoders) and sparse autoencoders behind one interface."""

from sparsedict.dictionaries._autoencoder import InputOffset, SparseAutoencoder
from sparsedict.dictionaries._block_products import entries_at
from sparsedict.dictionaries._blocks import Block
from sparsedict.dictionaries._convertible import Convertible
from sparsedict.dictionaries._cross_layer import CrossLayerDistiller, CrossLayerTranscoder
from sparsedict.dictionaries._crosscoder import Crosscoder
from sparsedict.dictionaries._dictionary import Dictionary, ForwardPass, Rows
from sparsedict.dictionaries._distiller import SparseDistiller, Transcoder
from sparsedict.dictionaries._encode import DENSE_SHARE
from sparsedict.dictionaries._encoder_decoder import EncoderDecoder
from sparsedict.dictionaries._exported import Exported
from sparsedict.dictionaries._layers import Layer
from sparsedict.dictionaries._layout import DecoderLayout, LaterLayers, NextLayers, TiedDecoders
from sparsedict.dictionaries._read import read
from sparsedict.dictionaries._scales import Scales
from sparsedict.dictionaries._sharded import gather_, latent_blocks, shard_
from sparsedict.dictionaries._storable import Storable
from sparsedict.dictionaries._trainable import Trainable
from sparsedict.dictionaries._weights import DictionaryWeights

__all__ = [
    "Block",
    "Convertible",
    "CrossLayerDistiller",
    "CrossLayerTranscoder",
    "Crosscoder",
    "DENSE_SHARE",
    "DecoderLayout",
    "Dictionary",
    "DictionaryWeights",
    "EncoderDecoder",
    "Exported",
    "ForwardPass",
    "InputOffset",
    "LaterLayers",
    "Layer",
    "NextLayers",
    "Rows",
    "Scales",
    "SparseAutoencoder",
    "SparseDistiller",
    "Storable",
    "TiedDecoders",
    "Trainable",
    "Transcoder",
    "entries_at",
    "gather_",
    "read",
    "latent_blocks",
    "shard_",
]
