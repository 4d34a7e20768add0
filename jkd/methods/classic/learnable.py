"""Distances with parameters of their own: Linen modules `(student, teacher, batch) -> [B]`, a scalar, or terms."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd import losses, nets
from jkd.distiller import Batch
from jkd.methods.classic import features
from jkd.model import Outputs

Array = jax.Array


class FitNet(nn.Module):
    """The hint of FitNets: a regressor from one stage of the student to the teacher's, trained with the student.

    Attributes:
      stage: number of the stage, from 1.

    Reference:
      Romero et al. [FitNets: Hints for Thin Deep Nets](https://arxiv.org/abs/1412.6550), ICLR 2015; joint training, as
      the later literature does, not its two stages.
    """

    stage: int = 2

    @nn.compact
    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> Array:
        """Returns `[B]`."""
        pairs = features.paired(features.stages(student), features.stages(teacher))
        if not 1 <= self.stage <= len(pairs):
            raise ValueError(f"stage={self.stage} must lie in [1, {len(pairs)}], the stages that both networks have.")
        ours, theirs = pairs[self.stage - 1]
        regressor = nets.ConvRegressor(theirs.shape[-1], (theirs.shape[1], theirs.shape[2]), name="regressor")
        return losses.hint(regressor(ours, batch.get("mask")), theirs)


class FactorTransfer(nn.Module):
    """Factor transfer: the student's translator imitates the factors of the teacher's paraphraser.

    The term `paraphrase` trains the paraphraser, an autoencoder of the teacher's last stage, and reaches nothing else;
    `distill` does not reach the paraphraser.

    Attributes:
      rate: width of the factors as a share of the teacher's.

    Reference:
      Kim, Park, Kwak. [Paraphrasing Complex Network](https://arxiv.org/abs/1802.04977), NeurIPS 2018.
    """

    rate: float = 0.5

    @nn.compact
    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> Mapping[str, Array]:
        """Returns the terms `distill` and `paraphrase`, `[B]` each."""
        ours, theirs = (features.stages(outputs)[-1] for outputs in (student, teacher))
        factor, rebuilt = nets.Paraphraser(self.rate, name="paraphraser")(theirs)
        translated = nets.Factors(factor.shape[-1], norm=True, name="translator")(ours, batch.get("mask"))
        return {
            "distill": losses.factor_transfer(translated, factor),
            "paraphrase": losses.hint(rebuilt, theirs),
        }


class ActivationBoundary(nn.Module):
    """Activation boundaries: which hidden units are active, compared before the ReLU; for the first part of a run.

    Attributes:
      margin: distance from the boundary that is asked for.

    Reference:
      Heo et al. [Knowledge Transfer via Distillation of Activation Boundaries](https://arxiv.org/abs/1811.03233), AAAI
      2019; stage i of n weighs `3 / 1000 * 2^(i - n)`, as in the official code.
    """

    margin: float = 1.0

    @nn.compact
    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> Array:
        """Returns `[B]`."""
        pairs = features.paired(features.preactivations(student), features.preactivations(teacher))
        total: Any = 0
        for index, (ours, theirs) in enumerate(pairs, start=1):
            if ours.shape != theirs.shape:
                width, sides = theirs.shape[-1], (theirs.shape[1], theirs.shape[2])
                connector = nets.ConvRegressor(width, sides, use_relu=False, name=f"connector{index}")
                ours = connector(ours, batch.get("mask"))
            weight = 3e-3 * 2.0 ** (index - len(pairs))
            total = total + weight * losses.activation_boundary(ours, theirs, margin=self.margin)
        return total


class Overhaul(nn.Module):
    """The overhaul of feature distillation: connectors before the ReLU and a margin for what the teacher switches off.

    Attributes:
      margins: `[D]` for each stage of the teacher, shallowest first: `jkd.ops.overhaul_margin` of what
        `jkd.nets.stage_norms` finds.

    Reference:
      Heo et al. [A Comprehensive Overhaul of Feature Distillation](https://arxiv.org/abs/1904.01866), ICCV 2019. The
      teacher is in evaluation mode, where the official code leaves its normalisation in training mode.
    """

    margins: tuple[Any, ...]

    @nn.compact
    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> Array:
        """Returns `[B]`."""
        pairs = features.paired(features.preactivations(student), features.preactivations(teacher))
        if len(self.margins) < len(pairs):
            raise ValueError(f"margins has {len(self.margins)} entries; expected one for each of {len(pairs)} stages.")
        total: Any = 0
        for index, (pair, margin) in enumerate(zip(pairs, self.margins[-len(pairs) :], strict=True), start=1):
            ours, theirs = features.to_smaller(*pair)
            connector = nets.PointwiseNorm(theirs.shape[-1], name=f"connector{index}")
            distance = losses.overhaul(connector(ours, batch.get("mask")), theirs, jnp.asarray(margin))
            total = total + 2.0 ** (index - len(pairs)) * distance
        return total


class VariationalInformation(nn.Module):
    """Variational information distillation: a regressor and one learnt variance a channel for each stage.

    Reference:
      Ahn et al. [Variational Information Distillation](https://arxiv.org/abs/1904.05835), CVPR 2019. The variances are
      trained, as the paper says.
    """

    eps: float = 1e-5

    @nn.compact
    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> Array:
        """Returns `[B]`."""
        total: Any = 0
        pairs = features.paired(features.stages(student), features.stages(teacher))
        for index, pair in enumerate(pairs, start=1):
            ours, theirs = features.to_smaller(*pair)
            width = theirs.shape[-1]
            mean = nets.PointwiseRegressor(width, name=f"regressor{index}")(ours)
            start = nn.initializers.constant(jnp.log(jnp.expm1(5 - self.eps)))
            log_scale = self.param(f"log_scale{index}", start, (width,))
            total = total + losses.variational_information(mean, theirs, log_scale, eps=self.eps)
        return total


class CorrelationCongruence(nn.Module):
    """Correlation congruence of linear embeddings of both networks, both of which learn.

    Attributes:
      width: of the embeddings.

    Reference:
      Peng et al. [Correlation Congruence for Knowledge Distillation](https://arxiv.org/abs/1904.01802), ICCV 2019.
    """

    width: int = 128

    @nn.compact
    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> Array:
        """Returns a scalar."""
        ours = nets.LinearEmbed(self.width, name="student_embedding")(features.pooled(student))
        theirs = nets.LinearEmbed(self.width, name="teacher_embedding")(features.pooled(teacher))
        # The loss sees only the difference and stops its second argument, while here both sides learn.
        return losses.correlation_congruence(ours - theirs, jnp.zeros_like(ours), where=batch.get("mask"))


class Review(nn.Module):
    """Knowledge review: the student's stages, fused from deep to shallow, against the teacher's.

    Attributes:
      max_width: largest inner width of the fusion.

    Reference:
      Chen et al. [Distilling Knowledge via Knowledge Review](https://arxiv.org/abs/2104.09044), CVPR 2021.
    """

    max_width: int = 512

    @nn.compact
    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> Array:
        """Returns `[B]`."""
        pairs = features.paired(features.stages(student), features.preactivations(teacher))
        top = tuple(features.pooled(outputs)[:, None, None] for outputs in (student, teacher))
        ours, theirs = zip(*pairs, top, strict=True)
        fusion = nets.ReviewFusion(tuple(x.shape[1:] for x in theirs), self.max_width, name="fusion")
        fused = fusion(list(ours), batch.get("mask"))
        return sum(
            (losses.hierarchical_context(a, b) for a, b in zip(fused, theirs, strict=True)), start=jnp.float32(0)
        )
