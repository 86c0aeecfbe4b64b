"""What all trainers share: checkpoints, logs, signals, several processes."""
