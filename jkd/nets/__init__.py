"""Small Flax networks under the literature's names.

Every network maps `(inputs, train=False)` to logits `[B, C]` in float32, takes the fields `num_classes`, `dtype`
(compute dtype; parameters stay float32) and `bn_axis_name`, and sows its features under the same names: `stem`,
`stage1`, `stage2`, …, `stage1_preact`, … (before the last ReLU of the stage), `pooled`.
"""

from jkd.nets.convnets import ConvNet, convnet, convnet1d
from jkd.nets.mlps import MLP, mlp
from jkd.nets.registry import create, names
from jkd.nets.resnets import (
    BasicBlock,
    Bottleneck,
    ResNet,
    cifar_resnet18,
    cifar_resnet50,
    resnet8,
    resnet8x4,
    resnet14,
    resnet18,
    resnet20,
    resnet32,
    resnet32x4,
    resnet34,
    resnet44,
    resnet50,
    resnet56,
    resnet101,
    resnet110,
)

__all__ = [
    "MLP",
    "BasicBlock",
    "Bottleneck",
    "ConvNet",
    "ResNet",
    "cifar_resnet18",
    "cifar_resnet50",
    "convnet",
    "convnet1d",
    "create",
    "mlp",
    "names",
    "resnet8",
    "resnet8x4",
    "resnet14",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet32x4",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet101",
    "resnet110",
]
