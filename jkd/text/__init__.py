"""Tokens of two vocabularies brought together."""

from jkd.text.alignment import align_byte_spans, merge_span_probs

__all__ = ["align_byte_spans", "merge_span_probs"]
