"""Parts of the tiny models: vocabulary, and one recipe per family."""
