"""Engines of other libraries: vLLM, and DeepSpeed in sharding/. A run chooses them by name."""
