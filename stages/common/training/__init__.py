"""The network and its training, with PyTorch. Used by hyperopt, train and label_doubt."""
