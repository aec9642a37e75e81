"""Stand-in: fields that every config of the library takes, each with a value that is not its default."""

config_common_kwargs = {
    "architectures": ["SomeModel"],
    "chunk_size_feed_forward": 3,
    "dtype": "float16",
    "finetuning_task": "parsing",
    "id2label": {0: "no", 1: "yes"},
    "is_encoder_decoder": True,
    "label2id": {"no": 0, "yes": 1},
    "name_or_path": "some/model",
    "output_attentions": True,
    "output_hidden_states": True,
    "problem_type": "regression",
    "return_dict": False,
    "tie_word_embeddings": False,
}
