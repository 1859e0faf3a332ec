"""Stage `train`: fit the network and export it.

Inputs: the artifacts of prepare_train (S = its image size), and of hyperopt, whose best parameters replace those of
section `train` if `train.use_hyperopt` is true. The network is trained on the train split and calibrated on the
validation split; the test split is not used.
Outputs:
    model.onnx                  input `images` uint8 (N, S, S, 3) RGB; one output per attribute, named by it, float32
                                (N, classes) probabilities; metadata `face_attributes`: attributes, image size,
                                preprocessing, temperatures, decision rules and thresholds, as JSON
    model.safetensors           the same weights for PyTorch; width, temperatures and the like in its metadata
    hyperparameters.json        the hyperparameters used
    metrics/train_metrics.json  `stages.common.inference.measures.measure` on validation images, calibration, decision
                                per attribute; every epoch; parameters used
    plots/training_curves.png   losses per epoch, and the learning rate
    plots/accuracy_curves.png   validation accuracy per epoch and attribute
    plots/augmented_pictures.png
                                36 training images as the network sees them once

A stopped or killed run continues after its last finished epoch.
"""
