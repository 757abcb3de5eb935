"""DogeRM Studio: give a general reward model domain knowledge by merging it with domain language models."""

__version__ = "0.1.0"
