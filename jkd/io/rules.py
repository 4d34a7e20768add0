"""From the names of PyTorch's state dictionaries to Flax paths: one table of rules per family.

A rule is a pair (pattern, replacement) over the module's part of a name, `layer1.0.conv1` of `layer1.0.conv1.weight`;
the first pattern that matches the whole of it counts. What follows the module is the same in every family: `weight`
is a kernel or a scale, whichever the network has there, and kernels change from OIHW to HWIO (depthwise and grouped
ones as well), or from OI to IO.
"""

import re
from collections.abc import Collection

Rules = tuple[tuple[str, str], ...]

_RESNET: Rules = (
    (r"(conv1|bn1)", r"\1"),
    (r"layer(\d+)\.(\d+)\.(conv\d|bn\d)", r"stage\1_\2/\3"),
    (r"layer(\d+)\.(\d+)\.(?:downsample|shortcut)\.0", r"stage\1_\2/downsample_conv"),
    (r"layer(\d+)\.(\d+)\.(?:downsample|shortcut)\.1", r"stage\1_\2/downsample_bn"),
    (r"fc|linear", r"fc"),
)

_WIDE_RESNET: Rules = (
    (r"(conv1|bn1)", r"\1"),
    (r"block(\d+)\.layer\.(\d+)\.(conv\d|bn\d)", r"stage\1_\2/\3"),
    (r"block(\d+)\.layer\.(\d+)\.convShortcut", r"stage\1_\2/shortcut"),
    (r"fc", r"fc"),
)

# A VGG block repeats convolution, normalisation, ReLU: three places in the sequence for each layer.
_VGG_PARTS = {3 * layer + part: f"{kind}{layer + 1}" for layer in range(4) for part, kind in ((0, "conv"), (1, "bn"))}

_VGG: Rules = (
    *((rf"block0\.{place}", f"stem_{part}") for place, part in _VGG_PARTS.items()),
    *((rf"block(\d+)\.{place}", rf"stage\1_{part}") for place, part in _VGG_PARTS.items()),
    (r"classifier", r"fc"),
)

_SEPARABLE_STAGES = (1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4)
_SEPARABLE_PARTS = {0: "conv1", 1: "bn1", 3: "conv2", 4: "bn2"}

_MOBILENET_V1: Rules = (
    (r"model\.0\.0", r"conv1"),
    (r"model\.0\.1", r"bn1"),
    *(
        (rf"model\.{block + 1}\.{place}", f"stage{stage}_{block - _SEPARABLE_STAGES.index(stage)}/{part}")
        for block, stage in enumerate(_SEPARABLE_STAGES)
        for place, part in _SEPARABLE_PARTS.items()
    ),
    (r"fc", r"fc"),
)

_INVERTED_PARTS = {0: "conv1", 1: "bn1", 3: "conv2", 4: "bn2", 6: "conv3", 7: "bn3"}

_MOBILENET_V2: Rules = (
    (r"conv(\d)\.0", r"conv\1"),
    (r"conv(\d)\.1", r"bn\1"),
    *((rf"blocks\.(\d+)\.(\d+)\.conv\.{place}", rf"block\1_\2/{part}") for place, part in _INVERTED_PARTS.items()),
    (r"classifier\.0", r"fc"),
)

_SHUFFLENET: Rules = (
    (r"(conv\d|bn\d)", r"\1"),
    (r"layer(\d+)\.(\d+)\.(conv\d|bn\d)", r"stage\1_\2/\3"),
    (r"linear", r"fc"),
)

_FAMILIES: dict[str, tuple[str, Rules]] = {
    "ResNet": (r"(cifar_)?resnet\d+(x4)?", _RESNET),
    "WideResNet": (r"wrn_\d+_\d+", _WIDE_RESNET),
    "VGG": (r"vgg\d+", _VGG),
    "MobileNetV1": (r"mobilenet_v1", _MOBILENET_V1),
    "MobileNetV2": (r"mobilenet_v2", _MOBILENET_V2),
    "ShuffleNetV1": (r"shufflenet_v1", _SHUFFLENET),
    "ShuffleNetV2": (r"shufflenet_v2", _SHUFFLENET),
}
"""Class of the network -> pattern of the literature's names, rules."""

_STATISTICS = {"running_mean": "mean", "running_var": "var"}


def family_rules(network: str) -> Rules:
    """Returns the rules of a network, given by its name in the literature or its class.

    Raises:
      ValueError: for a network whose names in PyTorch nobody has settled.

    Example:
      >>> family_rules("wrn_16_2")[-1]
      ('fc', 'fc')
    """
    for family, (pattern, rules) in _FAMILIES.items():
        if network == family or re.fullmatch(pattern, network):
            return rules
    raise ValueError(
        f"network={network!r} has no rules for PyTorch's tensor names; there are rules for {', '.join(_FAMILIES)}. "
        "For another network save jkd's own names with jkd.io.save_safetensors."
    )


def flax_path(name: str, rules: Rules, paths: Collection[str]) -> str | None:
    """Returns the path in Flax variables that PyTorch's `name` stands for, or None if no rule gives one.

    Args:
      name: a key of a state dictionary.
      rules: of the family.
      paths: those of the network, which tell a kernel from a scale.

    Example:
      >>> paths = ("params/stage1_0/bn1/scale", "params/stage1_0/conv1/kernel", "batch_stats/stage1_0/bn1/mean")
      >>> flax_path("layer1.0.conv1.weight", family_rules("resnet8"), paths)
      'params/stage1_0/conv1/kernel'
      >>> flax_path("layer1.0.bn1.running_mean", family_rules("resnet8"), paths)
      'batch_stats/stage1_0/bn1/mean'
    """
    module, _, leaf = name.rpartition(".")
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, module)
        if match is None:
            continue
        path = match.expand(replacement)
        if leaf in _STATISTICS:
            return f"batch_stats/{path}/{_STATISTICS[leaf]}"
        if leaf == "bias":
            return f"params/{path}/bias"
        if leaf == "weight":
            return f"params/{path}/{'scale' if f'params/{path}/scale' in paths else 'kernel'}"
    return None


def kernel_axes(path: str, ndim: int) -> tuple[int, ...]:
    """Returns the order in which PyTorch's axes stand in Flax: O, I, then space, becomes space, I, O for kernels.

    Example:
      >>> kernel_axes("params/conv1/kernel", 4), kernel_axes("params/fc/kernel", 2), kernel_axes("params/bn1/scale", 1)
      ((2, 3, 1, 0), (1, 0), (0,))
    """
    if path.endswith("/kernel") and ndim >= 2:
        return (*range(2, ndim), 1, 0)
    return tuple(range(ndim))
