"""The referee for methods that combine supervised fine-tuning and reinforcement learning."""

__version__ = "0.1.0"
