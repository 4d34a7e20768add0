"""Where the networks keep the batch normalisation that comes last before a stage's ReLU."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from jkd.nets.convnets import ConvNet
from jkd.nets.mobilenets import MobileNetV2
from jkd.nets.shufflenets import ShuffleNetV2
from jkd.nets.vggs import VGG
from jkd.nets.wide_resnets import WideResNet

_WIDE = (("stage2_0", "bn1"), ("stage3_0", "bn1"), ("bn1",))
_MOBILE_BLOCKS = (1, 2, 4, 6)


def stage_norms(module: nn.Module, params: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Finds scale and shift of the normalisation before the last ReLU of each stage.

    Args:
      module: a network of this package with stages.
      params: its parameters.

    Returns:
      `(scale [D], shift [D])` for each stage, shallowest first.

    Raises:
      ValueError: for a network without stages or without normalisation, and for ShuffleNetV2, whose stages end in two
        halves of which one is not normalised.
    """
    found = []
    for path in _paths(module, params):
        layer: Any = params
        for part in path:
            layer = layer[part]
        found.append((layer["scale"], layer["bias"]))
    return found


def _paths(module: nn.Module, params: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Paths of the layers, by family."""
    if isinstance(module, WideResNet):
        return list(_WIDE)
    if isinstance(module, ShuffleNetV2):
        raise ValueError("ShuffleNetV2 normalises only half of a stage's channels; choose another network.")
    if isinstance(module, ConvNet):
        return [(name,) for name in sorted(name for name in params if name.startswith("bn"))]
    if isinstance(module, MobileNetV2):
        return [(_last(params, f"block{index}_"), "bn3") for index in _MOBILE_BLOCKS]
    prefix = "stage{}_bn" if isinstance(module, VGG) else "stage{}_"
    stages = [i for i in range(1, 10) if any(name.startswith(prefix.format(i)) for name in params)]
    if not stages:
        raise ValueError(f"{type(module).__name__} has no stages with batch normalisation; choose another network.")
    layers = [_last(params, prefix.format(i)) for i in stages]
    return [(name,) if isinstance(module, VGG) else (name, _last(params[name], "bn")) for name in layers]


def _last(names: Mapping[str, Any], prefix: str) -> str:
    """The name with the highest number after a prefix."""
    numbers = [int(name.removeprefix(prefix)) for name in names if name.removeprefix(prefix).isdigit()]
    return f"{prefix}{max(numbers)}"
