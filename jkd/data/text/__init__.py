"""Text that every machine has: Python's own reference, exact-answer instructions, tokenizers, batches."""

from jkd.data.text.batches import LMBatches
from jkd.data.text.corpora import pydoc_topics, python_sources, split_bytes
from jkd.data.text.instructions import FAMILIES, Instructions, instructions, span_ids
from jkd.data.text.tokenizers import BPETokenizer, ByteTokenizer

__all__ = [
    "FAMILIES",
    "BPETokenizer",
    "ByteTokenizer",
    "Instructions",
    "LMBatches",
    "instructions",
    "pydoc_topics",
    "python_sources",
    "span_ids",
    "split_bytes",
]
