"""The parts that all trainers share: loop, checkpoints, curves, several processes."""
