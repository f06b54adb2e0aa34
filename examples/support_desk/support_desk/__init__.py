"""A support desk: looks an article up, asks a model, signs the reply."""
