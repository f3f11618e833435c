"""A local page that shows what a model sees: colors, similarity, attention, matches, resolutions, merged tokens, words.

Needs the extra ``view``. The page is `static/`; it gets numbers at the resolution of the patches from `app` and draws
them itself, so that a map follows the pointer without a request.
"""
