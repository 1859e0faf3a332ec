"""Stage `predict`: what the released model says about every image of the raw folder, lot by lot.

Inputs: the raw image folder, and the artifact of stage champion. Before any release there is nothing to do, and nothing
fails: headline version "none", no predictions.
Outputs:
    outputs/predictions_<lot>.csv  per image, by its file name (by its path where the lot has several of that name), and
                                 per attribute: predicted class, the confidence in it (0-1), and
                                 `<attribute>_answered`: no where the confidence is too low for an answer; the fields of
                                 `stages.common.schema.face.Face` if images are cropped to a face; and
                                 `model_version` in every row
    features/<lot>.npz           `stages.common.inference.features` of the lot, for stage monitor; none of a lot
                                 without a picture
    to_label.csv                 the images most worth labels, of those whose picture the champion neither has learned
                                 from nor was measured on (`stages.common.inference.to_label`). Labels given since then
                                 are not known here; stage monitor, which reads them, leaves those images out
    undecodable.csv              filename, lot, reason: images that cannot be used; they are counted everywhere
    ignored.csv                  filename, lot, path, reason: what else lies in the raw folder and is not read
    metrics/predictions.json     counts per lot and class, images without an answer, undecodable ones, images a second;
                                 of new images the expected accuracy (`stages.common.inference.expected`)
    findings.csv                 what the suite expectations/predictions.json found: severity, reason, filename, column,
                                 value
    data_docs/predictions/       index.html and suite.html: Great Expectations' own pages

The suite runs before anything is published; answers that are no probabilities fail the stage.

Work is cut by lot: a lot that the same model has answered is taken from the stage's cache, whatever becomes of other
lots, and also after the release has gone to another version and back.
"""
