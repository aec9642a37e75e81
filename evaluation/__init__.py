"""How good a model is: figures that compare across vocabularies, tasks, samples."""
