"""The exported model and its answers, without PyTorch. Entered by all that answer or judge answers."""
