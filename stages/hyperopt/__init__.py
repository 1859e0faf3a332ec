"""Stage `hyperopt`: search the hyperparameters with short trainings, by the tree-structured Parzen estimator.

Inputs: the artifact of prepare_train. Trials learn from the train split and are compared on the validation split; the
test split is not looked at.
Outputs:
    best_params.json               learning_rate, weight_decay, dropout, width, loss_weights {attribute: weight}
    metrics/hyperopt_results.json  every trial with hyperparameters, loss, validation accuracy (0-1), seconds; the best
    plots/trials.png               accuracy per trial, and against four of the hyperparameters

A search that was stopped or killed keeps its finished trials and goes on exactly as if nothing had happened.
"""
