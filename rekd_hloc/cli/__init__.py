"""The program ``rekd-hloc``."""
