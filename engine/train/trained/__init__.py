"""A trained model in use: predictions, evaluations, text, derivatives."""
