"""SieveRL."""
