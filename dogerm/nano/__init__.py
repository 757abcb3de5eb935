"""The embedded family: tiny Llama models trained from scratch on text that this package writes."""
