"""The command line ``rekd-hloc``."""
