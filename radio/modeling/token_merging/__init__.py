"""Fewer tokens from the same image: bipartite token merging on the final features, or inside the network.

* `merge_tokens` and its configuration `TokenMerging` merge the spatial features once, before the
  projector of a vision-language model.
* `InNetworkMerging` merges a few tokens in every block and so makes the backbone itself faster.
"""

from radio.modeling.token_merging.in_network import InNetworkMerging
from radio.modeling.token_merging.merge import MergedTokens, TokenMerging, merge_tokens
from radio.modeling.token_merging.plan import MergePlan

__all__ = ["InNetworkMerging", "MergePlan", "MergedTokens", "TokenMerging", "merge_tokens"]
