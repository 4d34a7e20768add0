"""Shapes with captions: images, exact masks, sentences, questions, and compositions that are held out."""

from jkd.data.shapes_captions.captions import (
    BOS,
    EOS,
    PAD,
    RELATIONS,
    VOCABULARY,
    class_prompts,
    hard_negative_captions,
    shapes_captions,
    shapes_captions_text,
)
from jkd.data.shapes_captions.examples import CaptionedScenes
from jkd.data.shapes_captions.questions import KINDS, STRENGTHS, Questions, hallucinated_pairs, shapes_questions
from jkd.data.shapes_captions.scenes import (
    COLORS,
    NOVEL_PAIRS,
    RGB,
    SHAPES,
    SIZES,
    Scenes,
    distinct_subset,
    render_shape,
    shapes_scenes,
)

__all__ = [
    "BOS",
    "COLORS",
    "EOS",
    "KINDS",
    "NOVEL_PAIRS",
    "PAD",
    "RELATIONS",
    "RGB",
    "SHAPES",
    "SIZES",
    "STRENGTHS",
    "VOCABULARY",
    "CaptionedScenes",
    "Questions",
    "Scenes",
    "class_prompts",
    "distinct_subset",
    "hallucinated_pairs",
    "hard_negative_captions",
    "render_shape",
    "shapes_captions",
    "shapes_captions_text",
    "shapes_questions",
    "shapes_scenes",
]
