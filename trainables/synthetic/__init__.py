"""Generated corpora: languages whose next symbol has a known distribution. One file a language, found by itself."""

from moe_models.registry import import_submodules
from trainables.synthetic.base import LANGUAGES, Language, Reader, draw_document, log_probabilities

__all__ = ["LANGUAGES", "Language", "Reader", "draw_document", "log_probabilities"]

import_submodules(__name__)
