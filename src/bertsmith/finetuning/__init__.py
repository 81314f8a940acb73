"""Fine-tuning: a task, an encoder and a few seeds, to figures that can be believed."""
