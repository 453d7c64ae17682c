"""The embedded demo: scenes rendered from seeds, questions about them and a small trained model."""
