"""The same step in PyTorch: its own plain networks, losses and optimisers, with weights taken from jkd's.

PyTorch is the optional extra `bench`; only the benchmark imports this file.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch._functorch import config as functorch

from jkd.nets import mobilenets, resnets

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Step = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], tuple[torch.Tensor, torch.Tensor]]


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, width: int, strides: int) -> None:
        """Draws nothing that matters: the weights are jkd's."""
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, width, 3, strides), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)
        self.width = width
        if strides != 1 or inputs != width:
            self.downsample_conv, self.downsample_bn = _conv(inputs, width, 1, strides), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, D, H, W]` to `[B, width, H / strides, W / strides]`."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(_shortcut(self, x) + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut."""

    def __init__(self, inputs: int, width: int, strides: int) -> None:
        """Draws nothing that matters: the weights are jkd's."""
        super().__init__()
        self.width = 4 * width
        self.conv1, self.bn1 = _conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, strides), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, self.width, 1), nn.BatchNorm2d(self.width)
        if strides != 1 or inputs != self.width:
            self.downsample_conv = _conv(inputs, self.width, 1, strides)
            self.downsample_bn = nn.BatchNorm2d(self.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, D, H, W]` to `[B, 4 width, H / strides, W / strides]`."""
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(_shortcut(self, x) + self.bn3(self.conv3(y)))


class Separable(nn.Module):
    """3x3 depthwise and 1x1 convolution."""

    def __init__(self, inputs: int, width: int, strides: int) -> None:
        """Draws nothing that matters: the weights are jkd's."""
        super().__init__()
        self.width = width
        self.conv1, self.bn1 = _conv(inputs, inputs, 3, strides, groups=inputs), nn.BatchNorm2d(inputs)
        self.conv2, self.bn2 = _conv(inputs, width, 1), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, D, H, W]` to `[B, width, H / strides, W / strides]`."""
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Twin(nn.Module):
    """Stem, blocks, global mean, classifier, with the sub-modules' names of the network in `jkd.nets`.

    Args:
      stem: width, kernel size and stride of the first convolution.
      pool: whether a 3x3 max pooling of stride 2 follows it.
      blocks: name, class, width and stride of each block.
      num_classes: C.
    """

    def __init__(
        self, stem: tuple[int, int, int], pool: bool, blocks: Sequence[tuple[str, Any, int, int]], num_classes: int
    ) -> None:
        """Draws nothing that matters: the weights are jkd's."""
        super().__init__()
        width, size, strides = stem
        self.conv1, self.bn1, self.pool = _conv(3, width, size, strides), nn.BatchNorm2d(width), pool
        self.names = [name for name, *_ in blocks]
        for name, make, wanted, strides in blocks:
            block = make(width, wanted, strides)
            setattr(self, name, block)
            width = block.width
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images `[B, 3, H, W]` to logits `[B, C]`."""
        x = F.relu(self.bn1(self.conv1(x)))
        if self.pool:
            x = F.max_pool2d(x, 3, 2, 1)
        for name in self.names:
            x = getattr(self, name)(x)
        return self.fc(x.mean((2, 3)))


def twin_of(module: Any, variables: Mapping[str, Any]) -> Twin:
    """Builds the twin of a residual network or MobileNetV1 of `jkd.nets`, with its weights.

    Args:
      module: the Linen network.
      variables: its `params` and `batch_stats`.

    Returns:
      The PyTorch network, in channels-last memory, the faster of the two on CPU.

    Raises:
      ValueError: for a network of another family.
    """
    if isinstance(module, resnets.ResNet):
        make = Bottleneck if module.block is resnets.Bottleneck else Basic
        stem = (module.stem_width, 7, 2) if module.imagenet_stem else (module.stem_width, 3, 1)
        blocks = [
            (f"stage{stage}_{i}", make, width, 2 if stage > 1 and i == 0 else 1)
            for stage, (count, width) in enumerate(zip(module.stage_sizes, module.widths, strict=True), start=1)
            for i in range(count)
        ]
        net = Twin(stem, module.imagenet_stem, blocks, module.num_classes)
    elif isinstance(module, mobilenets.MobileNetV1):
        blocks = [
            (f"stage{stage}_{i}", Separable, width, 2 if i == (1 if stage == 1 else 0) else 1)
            for stage, widths in enumerate(module.widths, start=1)
            for i, width in enumerate(widths)
        ]
        net = Twin((32, 3, 2), False, blocks, module.num_classes)
    else:
        raise ValueError(f"{type(module).__name__} has no twin in PyTorch; take a residual network or mobilenet_v1.")
    net.load_state_dict(_weights(variables), strict=False)
    return net.to(device=DEVICE, memory_format=torch.channels_last)


def make_step(
    method: str,
    student: nn.Module,
    teacher: nn.Module | None,
    *,
    bfloat16: bool,
    compile: bool,
    learning_rate: float,
    delta: float,
    temperature: float,
    task_weight: float,
    distill_weight: float,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Step:
    """A training step.

    Args:
      method: `kd` (SGD of the summed loss) or `dot` (a momentum for each of the two losses).
      student: the network that learns, in place.
      teacher: the frozen network; None where its logits are given.
      bfloat16: whether matrix products and convolutions are computed in it, by autocast.
      compile: whether both networks and the losses go through `torch.compile`.
      learning_rate: of the step.
      delta: half the distance of DOT's momenta.
      temperature: T.
      task_weight: of the cross-entropy.
      distill_weight: of the divergence.
      momentum: mean momentum.
      weight_decay: coupled L2 coefficient.

    Returns:
      `(images, labels, teacher logits or None) -> (task loss, distillation loss)`.
    """
    student.train()
    params = list(student.parameters())
    buffers = [[torch.zeros_like(p) for p in params] for _ in range(2 if method == "dot" else 1)]
    decays = (momentum - delta, momentum + delta) if method == "dot" else (momentum,)
    losses = _losses(student, bfloat16, temperature, task_weight, distill_weight)
    answer = _answer(teacher, bfloat16)
    if compile:
        functorch.donated_buffer = False  # the graph is pulled back twice
        losses, answer = torch.compile(losses), torch.compile(answer)

    def step(x: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        task, distill = losses(x, labels, answer(x) if targets is None else targets)
        if method == "dot":
            gradients = [torch.autograd.grad(task, params, retain_graph=True), torch.autograd.grad(distill, params)]
        else:
            gradients = [torch.autograd.grad(task + distill, params)]
        _descend(params, buffers, decays, gradients, learning_rate, weight_decay)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return task.detach(), distill.detach()

    return step


def _losses(student: nn.Module, bfloat16: bool, temperature: float, task_weight: float, distill_weight: float) -> Any:
    """Both losses of a batch and the teacher's logits of it."""

    def losses(x: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=bfloat16):
            logits = student(x).float()
        task = task_weight * F.cross_entropy(logits, labels)
        soft, wanted = (F.log_softmax(z / temperature, dim=1) for z in (logits, targets))
        divergence = F.kl_div(soft, wanted, reduction="batchmean", log_target=True)
        return task, distill_weight * temperature**2 * divergence

    return losses


def _answer(teacher: nn.Module | None, bfloat16: bool) -> Any:
    """The frozen teacher's logits."""
    if teacher is not None:
        teacher.eval()

    def answer(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16, enabled=bfloat16):
            return teacher(x).float()  # type: ignore[misc]

    return answer


@torch.no_grad()
def _descend(
    params: Any, buffers: Any, decays: Sequence[float], gradients: Any, learning_rate: float, weight_decay: float
) -> None:
    """One momentum a gradient, the weight decay in the first."""
    for buffer, decay, gradient in zip(buffers, decays, gradients, strict=True):
        torch._foreach_mul_(buffer, decay)
        torch._foreach_add_(buffer, gradient)
    torch._foreach_add_(buffers[0], params, alpha=weight_decay)
    for buffer in buffers:
        torch._foreach_add_(params, buffer, alpha=-learning_rate)


def batch(images: Any, labels: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `[B, H, W, D]` and labels `[B]` as PyTorch takes them: channels second, last in memory."""
    return there(torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)), there(
        torch.from_numpy(np.array(labels)).long()
    )


def there(x: torch.Tensor) -> torch.Tensor:
    """On the device."""
    return x.to(DEVICE)


def _conv(inputs: int, width: int, size: int, strides: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution as `jkd.nets.layers.conv` pads it."""
    return nn.Conv2d(inputs, width, size, strides, size // 2, groups=groups, bias=False)


def _shortcut(block: Any, x: torch.Tensor) -> torch.Tensor:
    """A residual block's input, in the shape of its output."""
    return block.downsample_bn(block.downsample_conv(x)) if hasattr(block, "downsample_conv") else x


_NAMES = {"scale": "weight", "bias": "bias", "kernel": "weight", "mean": "running_mean", "var": "running_var"}


def _weights(variables: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Parameters and statistics by PyTorch's names, in its layout."""
    found: dict[str, torch.Tensor] = {}

    def visit(tree: Mapping[str, Any], path: str) -> None:
        for name, leaf in tree.items():
            if isinstance(leaf, Mapping):
                visit(leaf, f"{path}{name}.")
                continue
            value = np.array(leaf, np.float32)
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
            found[path + _NAMES[name]] = torch.from_numpy(np.ascontiguousarray(value))

    for tree in variables.values():
        visit(tree, "")
    return found
