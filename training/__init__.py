"""The engine: a recipe and token bins become a model; stopped, moved and resumed with nothing lost or changed."""
