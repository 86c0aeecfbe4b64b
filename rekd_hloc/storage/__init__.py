"""HDF5 files in hloc's schema: safe against kills, resumable, validated."""
