"""Networks by name."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from jkd import _check
from jkd.nets import convnets, mlps, mobilenets, resnets, shufflenets, vggs, wide_resnets

_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    make.__name__: make
    for make in (
        mlps.mlp,
        convnets.convnet,
        convnets.convnet1d,
        resnets.resnet8,
        resnets.resnet14,
        resnets.resnet20,
        resnets.resnet32,
        resnets.resnet44,
        resnets.resnet56,
        resnets.resnet110,
        resnets.resnet8x4,
        resnets.resnet32x4,
        resnets.cifar_resnet18,
        resnets.cifar_resnet50,
        resnets.resnet18,
        resnets.resnet34,
        resnets.resnet50,
        resnets.resnet101,
        wide_resnets.wrn_16_1,
        wide_resnets.wrn_16_2,
        wide_resnets.wrn_40_1,
        wide_resnets.wrn_40_2,
        vggs.vgg8,
        vggs.vgg11,
        vggs.vgg13,
        vggs.vgg16,
        vggs.vgg19,
        mobilenets.mobilenet_v1,
        mobilenets.mobilenet_v2,
        shufflenets.shufflenet_v1,
        shufflenets.shufflenet_v2,
    )
}


def names() -> tuple[str, ...]:
    """Returns the names that `create` knows, sorted."""
    return tuple(sorted(_NETWORKS))


def create(name: str, num_classes: int, **fields: Any) -> nn.Module:
    """Builds a network by its name in the literature.

    Args:
      name: one of `names()`.
      num_classes: C, at least 1.
      **fields: fields of the network's module (`dtype`, `bn_axis_name`, widths, …) in place of the defaults.

    Returns:
      A Linen module; `module(inputs, train)` gives logits `[B, C]` in float32.

    Raises:
      ValueError: for an unknown name or a number of classes below 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> net = create("resnet8", 10)
      >>> variables = jax.eval_shape(net.init, jax.random.key(0), jnp.ones((1, 8, 8, 1)))
      >>> sorted(variables)
      ['batch_stats', 'params']
      >>> jax.eval_shape(net.apply, variables, jnp.ones((5, 8, 8, 1))).shape
      (5, 10)
    """
    _check.known("name", name, _NETWORKS, what="network")
    _check.positive("num_classes", num_classes)
    return _NETWORKS[name](num_classes, **fields)
