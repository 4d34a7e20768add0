"""Tokens of two vocabularies brought together, text that is written and corrected, and its phrases."""

from jkd.text.alignment import align_byte_spans, merge_span_probs
from jkd.text.generation import (
    Corrected,
    LanguageModel,
    completion_logits,
    correct_and_regenerate,
    generate,
    language_model,
    until_end,
)
from jkd.text.spans import byte_span_ids

__all__ = [
    "Corrected",
    "LanguageModel",
    "align_byte_spans",
    "byte_span_ids",
    "completion_logits",
    "correct_and_regenerate",
    "generate",
    "language_model",
    "merge_span_probs",
    "until_end",
]
