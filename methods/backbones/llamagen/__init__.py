"""LlamaGen: the backbone and its networks, and the conversion of the released files."""
