"""Side-by-side measurements with other systems; `python -m bench NAME` prints one JSON line."""
