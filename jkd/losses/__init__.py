"""What one minimises, or a term of it: pure functions, student first, teacher second."""

from jkd.losses.classification import cross_entropy, soft_cross_entropy
from jkd.losses.decoupled import dkd
from jkd.losses.divergences import forward_kl, generalized_jsd, jeffreys, kl_divergence, reverse_kl

__all__ = [
    "cross_entropy",
    "dkd",
    "forward_kl",
    "generalized_jsd",
    "jeffreys",
    "kl_divergence",
    "reverse_kl",
    "soft_cross_entropy",
]
