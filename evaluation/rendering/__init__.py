"""A small renderer of textured surfaces, and the procedural courtyard it draws."""
