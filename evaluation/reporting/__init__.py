"""Tables, curves, pages, and the results document."""
