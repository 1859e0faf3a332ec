"""Stage `train`: fit the network and export it.

Inputs: the artifact of prepare_train (S = its image size), and of hyperopt, whose best parameters replace those of
section `train` while `train.use_hyperopt` is true. Learned from is the train split; the validation split says how far
the confidences can be believed; the test split is not looked at.
Outputs:
    model.onnx                  input `images` uint8 (N, S, S, 3) RGB; one output per attribute, named by it, float32
                                (N, classes) probabilities; metadata `face_attributes`: attributes, image size,
                                preprocessing, temperatures, which class is the answer, and the lowest confidence of
                                one, as JSON
    model.safetensors           the same weights for PyTorch; width, temperatures and the like in its metadata
    hyperparameters.json        those that were trained with
    metrics/train_metrics.json  on validation images what `stages.common.inference.measures.measure` gives, calibration,
                                decision per attribute; every epoch; parameters used
    plots/training_curves.png   losses per epoch, and the learning rate
    plots/accuracy_curves.png   validation accuracy per epoch and attribute
    plots/augmented_pictures.png
                                36 training images as the network sees them once

A run that was stopped or killed goes on after its last finished epoch.
"""
