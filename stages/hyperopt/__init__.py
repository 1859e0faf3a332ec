"""Stage `hyperopt`: search the hyperparameters with short trainings, by the tree-structured Parzen estimator.

Inputs: the artifact of prepare_train. Trials learn from the train split and are compared on the validation split; the
test split is not looked at.
Outputs:
    best_params.json               learning_rate, muon_learning_rate, weight_decay, dropout, width, batch_size,
                                   loss_weights {attribute: weight}, class_balance
    metrics/hyperopt_results.json  every trial: hyperparameters, how it ended, validation loss (nats, calibrated, of
                                   `evaluate.metric`) by epochs, accuracy and balanced accuracy (0-1), seconds; the
                                   best; how much each hyperparameter mattered
    plots/trials.png               validation loss per trial, by epochs, against six of the hyperparameters
    plots/importance.png           how much each hyperparameter mattered

A search that was stopped or killed keeps the trainings that have ended and goes on exactly as if nothing had happened.
One that hyperopt.timeout ended is used, but not taken from the store for good: the next run of it goes on.
"""
