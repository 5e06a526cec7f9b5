"""The trainer that runs in the training container: `python -m training_code.train`."""
