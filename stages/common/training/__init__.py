"""The network and how it learns. Entered by hyperopt, train and label_doubt: the wing with PyTorch."""
