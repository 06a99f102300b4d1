"""The demo model's corpus, tokenizer, training and LoRA adapter."""
