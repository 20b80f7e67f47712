"""Dead letters: what the pipeline refused, read back, shown, and sent again where that can help."""
