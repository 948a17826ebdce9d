"""The other systems, each in a virtual environment and process of its own."""
