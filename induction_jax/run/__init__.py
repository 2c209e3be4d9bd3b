"""One run: what it is made of, its loop, and what it writes."""
