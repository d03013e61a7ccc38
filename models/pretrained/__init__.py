"""Published weights in and out: folders in the layout of Hugging Face, without their library."""

from seqzoo.models.pretrained.adapters import adapt, merge_adapters
from seqzoo.models.pretrained.load import from_pretrained
from seqzoo.models.pretrained.save import save_pretrained

__all__ = ["adapt", "from_pretrained", "merge_adapters", "save_pretrained"]
