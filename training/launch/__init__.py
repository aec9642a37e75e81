"""Starting processes, and what DDP, FSDP2 and ZeRO need of TrainingArguments, by name."""
