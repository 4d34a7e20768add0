"""Small Flax networks under the literature's names.

Every network maps `(inputs, train=False)` to logits `[B, C]` in float32, takes the fields `num_classes`, `dtype`
(compute dtype; parameters stay float32) and `bn_axis_name`, and sows its features under the same names: `stem`,
`stage1`, `stage2`, …, `stage1_preact`, … (before the last ReLU of the stage), `pooled`.
"""

from jkd.nets.agents import ActorCritic, Categorical, CuriosityPredictor, CuriosityTarget, Decision, Gaussian
from jkd.nets.branches import BranchedResNet, StageBranches
from jkd.nets.connectors import (
    ConvRegressor,
    Factors,
    LinearEmbed,
    Paraphraser,
    PointwiseNorm,
    PointwiseRegressor,
    ReviewFusion,
)
from jkd.nets.convnets import ConvNet, LabelQueryConvNet, convnet, convnet1d
from jkd.nets.denoisers import DenoisingMLP
from jkd.nets.detection import DenseDetector
from jkd.nets.dual_encoders import DualEncoder, Embeddings, ImageTower, TextTower, TowerSizes, tower_sizes
from jkd.nets.frequency_samplers import FrequencySampler, frequency_sampler_apply
from jkd.nets.graph_networks import GraphClassifier, gat, gcn, gin
from jkd.nets.inheritance import inherit_layers, inherit_weights
from jkd.nets.instance_convnets import InstanceConvNet
from jkd.nets.label_queries import LabelQueryDecoder
from jkd.nets.learnt_masks import (
    cut_dual_encoder,
    cut_masked_transformer,
    expand_cut_transformer,
    expand_dual_encoder,
    prunable,
)
from jkd.nets.mlps import MLP, mlp
from jkd.nets.mobilenets import (
    MobileNetV1,
    MobileNetV2,
    mobilenet_v1,
    mobilenet_v2,
)
from jkd.nets.norms import stage_norms
from jkd.nets.projection_heads import DINOHead, WeightNormDense, with_head
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
from jkd.nets.shared_classifier import SharedClassifierStudent, with_classifier
from jkd.nets.shufflenets import ShuffleNetV1, ShuffleNetV2, shufflenet_v1, shufflenet_v2
from jkd.nets.transformers import Cache, Decoder, DecoderBlock, decoder_rules, empty_cache, llama2_7b, tiny_llama_1b
from jkd.nets.vggs import VGG, vgg8, vgg11, vgg13, vgg16, vgg19
from jkd.nets.vision_transformers import VisionTransformer, vit_small
from jkd.nets.wide_resnets import WideResNet, wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2

__all__ = [
    "MLP",
    "VGG",
    "ActorCritic",
    "BasicBlock",
    "Bottleneck",
    "BranchedResNet",
    "Cache",
    "Categorical",
    "ConvNet",
    "ConvRegressor",
    "CuriosityPredictor",
    "CuriosityTarget",
    "DINOHead",
    "Decision",
    "Decoder",
    "DecoderBlock",
    "DenoisingMLP",
    "DenseDetector",
    "DualEncoder",
    "Embeddings",
    "Factors",
    "FrequencySampler",
    "Gaussian",
    "GraphClassifier",
    "ImageTower",
    "InstanceConvNet",
    "LabelQueryConvNet",
    "LabelQueryDecoder",
    "LinearEmbed",
    "MobileNetV1",
    "MobileNetV2",
    "Paraphraser",
    "PointwiseNorm",
    "PointwiseRegressor",
    "ResNet",
    "ReviewFusion",
    "SharedClassifierStudent",
    "ShuffleNetV1",
    "ShuffleNetV2",
    "StageBranches",
    "TextTower",
    "TowerSizes",
    "VisionTransformer",
    "WeightNormDense",
    "WideResNet",
    "cifar_resnet18",
    "cifar_resnet50",
    "convnet",
    "convnet1d",
    "create",
    "cut_dual_encoder",
    "cut_masked_transformer",
    "decoder_rules",
    "empty_cache",
    "expand_cut_transformer",
    "expand_dual_encoder",
    "frequency_sampler_apply",
    "gat",
    "gcn",
    "gin",
    "inherit_layers",
    "inherit_weights",
    "llama2_7b",
    "mlp",
    "mobilenet_v1",
    "mobilenet_v2",
    "names",
    "prunable",
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
    "shufflenet_v1",
    "shufflenet_v2",
    "stage_norms",
    "tiny_llama_1b",
    "tower_sizes",
    "vgg8",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "vit_small",
    "with_classifier",
    "with_head",
    "wrn_16_1",
    "wrn_16_2",
    "wrn_40_1",
    "wrn_40_2",
]
