"""The baseline set: classic distances between student and teacher, each added to the cross-entropy with the labels."""

from jkd.methods.classic.features import TAPS, pooled, preactivations, stages
from jkd.methods.classic.making import Population, add, first_steps, make, method, names

__all__ = ["TAPS", "Population", "add", "first_steps", "make", "method", "names", "pooled", "preactivations", "stages"]
