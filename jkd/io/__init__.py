"""Weights in and out: safetensors, `.npz`, Orbax, and the exported student."""

from jkd.io.program import export
from jkd.io.weights import load_npz, load_orbax, load_safetensors, load_weights, save_safetensors

__all__ = ["export", "load_npz", "load_orbax", "load_safetensors", "load_weights", "save_safetensors"]
