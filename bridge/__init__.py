"""The referee for methods that combine supervised fine-tuning and reinforcement learning."""
