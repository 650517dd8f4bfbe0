"""Host side data: text to tokens to rows to batches, in numpy.

`prepare` makes or finds the rows of a corpus, `batches` streams them from any step on.
"""

from psann_jax.data.backends import fit as fit_tokenizer
from psann_jax.data.backends import load as load_tokenizer
from psann_jax.data.cache import CorpusMeta, SplitMeta
from psann_jax.data.config import DataConfig
from psann_jax.data.corpus import Corpus, HeldOut, prepare
from psann_jax.data.order import n_steps, row_order
from psann_jax.data.pipeline import batches
from psann_jax.data.shards import Rows
from psann_jax.data.tokenizer import Tokenizer
from psann_jax.seq import Share

__all__ = [
    "Corpus",
    "CorpusMeta",
    "DataConfig",
    "HeldOut",
    "Rows",
    "Share",
    "SplitMeta",
    "Tokenizer",
    "batches",
    "fit_tokenizer",
    "load_tokenizer",
    "n_steps",
    "prepare",
    "row_order",
]
