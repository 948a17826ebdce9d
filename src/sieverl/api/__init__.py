"""SieveRL from Python and notebooks: train, evaluate, look at what runs left."""
