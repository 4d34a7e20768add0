"""Distances without parameters of their own: functions `(student, teacher, batch) -> [B]` or a scalar."""

import itertools
from collections.abc import Callable
from typing import Any

import jax

from jkd import losses
from jkd.distiller import Batch
from jkd.methods.classic import features
from jkd.model import Outputs

Distance = Callable[[Outputs, Outputs, Batch], Any]


def kd(*, temperature: float = 4.0) -> Distance:
    """Hinton, Vinyals, Dean. [Distilling the Knowledge in a Neural Network](https://arxiv.org/abs/1503.02531), 2015."""
    return lambda s, t, batch: losses.kl_divergence(s.logits, t.logits, temperature=temperature)


def dkd(*, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> Distance:
    """Zhao et al. [Decoupled Knowledge Distillation](https://arxiv.org/abs/2203.08679), CVPR 2022."""

    def distance(student: Outputs, teacher: Outputs, batch: Batch) -> jax.Array:
        return losses.dkd(
            student.logits, teacher.logits, batch["label"], alpha=alpha, beta=beta, temperature=temperature
        )

    return distance


def dist(*, beta: float = 2.0, gamma: float = 2.0, temperature: float = 4.0) -> Distance:
    """Huang et al. [Knowledge Distillation from A Stronger Teacher](https://arxiv.org/abs/2205.10536), NeurIPS 2022."""

    def distance(student: Outputs, teacher: Outputs, batch: Batch) -> jax.Array:
        weights = {"beta": beta, "gamma": gamma, "temperature": temperature}
        return losses.dist(student.logits, teacher.logits, **weights, where=batch.get("mask"))

    return distance


def kd_standardized(*, temperature: float = 2.0) -> Distance:
    """Sun et al. [Logit Standardization in Knowledge Distillation](https://arxiv.org/abs/2403.01427), CVPR 2024."""
    return lambda s, t, batch: losses.logit_standardized_kl(s.logits, t.logits, temperature=temperature)


def at(*, p: int = 2) -> Distance:
    """Zagoruyko, Komodakis. [Paying More Attention to Attention](https://arxiv.org/abs/1612.03928), ICLR 2017."""
    return lambda s, t, batch: sum(losses.attention_transfer(a, b, p=p) for a, b in _stages(s, t))


def nst() -> Distance:
    """Huang, Wang. [Like What You Like: Neuron Selectivity Transfer](https://arxiv.org/abs/1707.01219), 2017."""
    return lambda s, t, batch: sum(losses.neuron_selectivity(a, b) for a, b in _stages(s, t))


def fsp() -> Distance:
    """Yim et al. A Gift from Knowledge Distillation, CVPR 2017; the networks' channels must be equal."""

    def distance(student: Outputs, teacher: Outputs, batch: Batch) -> Any:
        pairs = features.paired(features.stages(student, stem=True), features.stages(teacher, stem=True))
        flows = itertools.pairwise(pairs)
        return sum(losses.flow_of_solution(a[0], b[0], a[1], b[1]) for a, b in flows)

    return distance


def kdsvd(*, k: int = 1, columns: str = "channels") -> Distance:
    """Lee et al. [Self-supervised KD Using Singular Value Decomposition](https://arxiv.org/abs/1807.06819), 2018."""

    def distance(student: Outputs, teacher: Outputs, batch: Batch) -> jax.Array:
        maps = [features.to_smaller(a, b) for a, b in _stages(student, teacher)]
        return losses.kdsvd([a for a, _ in maps], [b for _, b in maps], k=k, columns=columns, where=batch.get("mask"))

    return distance


def pkt() -> Distance:
    """Passalis, Tefas. [Probabilistic Knowledge Transfer](https://arxiv.org/abs/1803.10837), ECCV 2018."""
    return _pooled(losses.probabilistic_transfer)


def rkd(*, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Distance:
    """Park et al. [Relational Knowledge Distillation](https://arxiv.org/abs/1904.05068), CVPR 2019."""
    return _pooled(losses.rkd, distance_weight=distance_weight, angle_weight=angle_weight)


def sp() -> Distance:
    """Tung, Mori. [Similarity-Preserving Knowledge Distillation](https://arxiv.org/abs/1907.09682), ICCV 2019."""

    def distance(student: Outputs, teacher: Outputs, batch: Batch) -> jax.Array:
        last = [features.stages(outputs)[-1] for outputs in (student, teacher)]
        flat = [x.reshape(x.shape[0], -1) for x in last]
        return losses.similarity_preserving(*flat, where=batch.get("mask"))

    return distance


def _pooled(loss: Callable[..., jax.Array], **arguments: Any) -> Distance:
    """A relational loss of the pooled features."""

    def distance(student: Outputs, teacher: Outputs, batch: Batch) -> jax.Array:
        embeddings = features.pooled(student), features.pooled(teacher)
        return loss(*embeddings, **arguments, where=batch.get("mask"))

    return distance


def _stages(student: Outputs, teacher: Outputs) -> list[tuple[jax.Array, jax.Array]]:
    return features.paired(features.stages(student), features.stages(teacher))
