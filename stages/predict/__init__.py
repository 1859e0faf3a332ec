"""Stage `predict`: answers of the released model about every image of the raw folder, lot by lot.

Inputs: the raw image folder, and the artifact of stage champion. Before any release there is nothing to predict, which
is no error: the headline's version is "none", and there are no predictions.
Outputs:
    outputs/predictions_<lot>.csv  per image, by its file name (by its path if the lot has several of that name), and
                                 per attribute: predicted class, the confidence in it (0-1), and
                                 `<attribute>_answered`: no if the confidence is below the threshold; the fields of
                                 `stages.common.schema.face.Face` if images are cropped to a face; and
                                 `model_version` in every row
    features/<lot>.npz           `stages.common.inference.features` of the lot, for stage monitor; absent for a lot
                                 without a picture
    to_label.csv                 new images most worth labels, whose picture was not used to train or measure the
                                 champion (`stages.common.inference.to_label`). Later labels are not known here; stage
                                 monitor, which reads them, leaves such images out
    undecodable.csv              filename, lot, reason: images that cannot be used; they are counted everywhere
    ignored.csv                  filename, lot, path, reason: other files in the raw folder, which are not read
    metrics/predictions.json     counts per lot and class, images without an answer, undecodable images, images a
                                 second; expected accuracy on new images (`stages.common.inference.expected`)
    findings.csv                 findings of the suite expectations/predictions.json: severity, reason, filename,
                                 column, value
    data_docs/predictions/       index.html and suite.html: Great Expectations' own pages

The suite runs before anything is published; answers that are not probabilities fail the stage.

Work is divided into lots: a lot that the same model has answered comes from the stage's cache, independently of other
lots, and also after a release of another version and a rollback.
"""
