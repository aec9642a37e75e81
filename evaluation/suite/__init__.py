"""What a fine-tuned model can do, by category: small questions, and programs that judge the answers. docs/suite.md."""
