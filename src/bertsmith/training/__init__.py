"""The engine: transformers' Trainer with a budget, exact loss parts and crash-safe checkpoints."""
