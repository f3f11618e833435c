"""Text towers of the teachers: what makes summaries comparable with words.

Nothing here imports open_clip or transformers until a tower is used for the first time.
"""

from radio.text.encoder import LazyTextEncoder, text_encoder_for

__all__ = ["LazyTextEncoder", "text_encoder_for"]
