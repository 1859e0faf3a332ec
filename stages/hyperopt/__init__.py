"""Stage `hyperopt`: search the hyperparameters with short trainings, by the tree-structured Parzen estimator.

Inputs: the artifact of prepare_train. Trials are trained on the train split and compared on the validation split; the
test split is not used.
Outputs:
    best_params.json               learning_rate, muon_learning_rate, weight_decay, dropout, width, batch_size,
                                   loss_weights {attribute: weight}, class_balance
    metrics/hyperopt_results.json  every trial: hyperparameters, state, validation loss (nats, calibrated, for
                                   `evaluate.metric`) by epochs, accuracy and balanced accuracy (0-1), seconds; the
                                   best trial; importance of each hyperparameter
    plots/trials.png               validation loss per trial, by epochs, against six of the hyperparameters
    plots/importance.png           importance of each hyperparameter

A stopped or killed search keeps its finished trainings and continues exactly as without the interruption. The result of
a search that hyperopt.timeout ended is used, but the next run continues the search.
"""
