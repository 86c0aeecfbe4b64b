"""The extractor in the manners of other libraries."""
