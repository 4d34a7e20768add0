"""Auxiliary branches on every stage of a network, each with a classifier of its own; they are taken off to deploy.

Reference:
  Chuanguang Yang, Zhulin An, Linhang Cai, Yongjun Xu: Hierarchical Self-supervised Augmented Knowledge Distillation.
  IJCAI 2021. https://arxiv.org/abs/2107.13715
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jkd.nets import layers
from jkd.nets.resnets import BasicBlock, Bottleneck, ResNet, logits_and_stages

Array = jax.Array
BRANCHES = "branches"
"""Name of the module that holds all branches, in every collection of a network's variables."""


class StageBranches(nn.Module):
    """A branch behind every stage: the later stages' blocks again with weights of their own, mean, classifier.

    Branch l < L repeats stages l + 1 to L with their widths and strides; branch L is one more stage L of stride 1. So
    the features of all branches are as wide as the last stage. Sub-modules are `branch1_stage2_0` (branch, stage,
    block), …, `branch1_fc`, ….

    Attributes:
      stage_sizes: blocks of each stage; one each if None.
      block: `BasicBlock` or `Bottleneck`.
      dtype: compute dtype; parameters stay float32.
      bn_axis_name: mapped axis over which batch statistics are averaged.
    """

    stage_sizes: Sequence[int] | None = None
    block: type[BasicBlock] | type[Bottleneck] = BasicBlock
    dtype: Any = jnp.float32
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, maps: Sequence[Array], joint_classes: int, train: bool = False) -> dict[str, Array]:
        """Maps the features of all stages, `[B, H, W, D]` each, to `branch1_logits`, `branch1_pooled`, ….

        Args:
          maps: of the stages, in order.
          joint_classes: number of logits of each branch.
          train: whether batch statistics are those of the batch.

        Returns:
          Logits `[B, joint_classes]` and pooled features `[B, D]` of each branch.

        Raises:
          ValueError: if there are not as many maps as stages.
        """
        last = len(maps)
        sizes = self.stage_sizes or (1,) * last
        if len(sizes) != last:
            raise ValueError(f"stage_sizes={tuple(sizes)} names {len(sizes)} stages; the network has {last}.")
        found: dict[str, Array] = {}
        for branch, x in enumerate(maps, start=1):
            for stage in range(min(branch + 1, last), last + 1):
                strides = 1 if stage == branch else _strides(maps[stage - 2], maps[stage - 1])
                for index in range(sizes[stage - 1]):
                    block = self.block(
                        maps[stage - 1].shape[-1] // self.block.expansion,
                        strides if index == 0 else 1,
                        self.dtype,
                        self.bn_axis_name,
                        name=f"branch{branch}_stage{stage}_{index}",
                    )
                    x = nn.relu(block(x, train))
            pooled = layers.global_mean(x)
            logits = layers.classifier(pooled, joint_classes, dtype=self.dtype, name=f"branch{branch}_fc")
            found |= {f"branch{branch}_logits": logits, f"branch{branch}_pooled": pooled}
        return found


class BranchedResNet(ResNet):
    """A residual network with `StageBranches`, which it sows as `branch1_logits`, `branch1_pooled`, ….

    Its variables are those of the `ResNet` of the same fields, and the module `branches`. Without that module they are
    the variables of the network with `branches=False`, which is the `ResNet`.

    Attributes:
      joint_classes: number of logits of each branch; four times `num_classes` for quarter turns if None.
      branches: False to deploy.
    """

    joint_classes: int | None = None
    branches: bool = True

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        """Maps images `[B, H, W, D]` to logits `[B, C]`."""
        logits, maps = logits_and_stages(self, inputs, train)
        if self.branches:
            attached = StageBranches(self.stage_sizes, self.block, self.dtype, self.bn_axis_name, name=BRANCHES)
            joint = self.joint_classes or 4 * self.num_classes
            for name, value in attached(maps, joint, train).items():
                self.sow("intermediates", name, value)
        return logits


def _strides(before: Array, after: Array) -> int:
    """The stride between two stages."""
    return -(-before.shape[1] // after.shape[1])
