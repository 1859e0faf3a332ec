"""The exported model and its answers, without PyTorch. Used by all stages that answer or measure answers."""
