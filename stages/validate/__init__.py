"""Check raw annotations before anything else touches the data, and write them in one canonical form.

The Great Expectations suite `expectations/raw_annotations.json` decides: a failing table expectation or more rejected
rows than `validate.max_rejected_fraction` fail the stage (exit 65); a failing row expectation of severity critical
rejects the row; one of severity warning keeps the row, lists it, and, if its meta says `"clear": true`, makes the cell
unknown.

Inputs:
    raw          folder of images, any depth; an image's lot is its file name up to the first `_`, or its folder's name
    annotations  flat CSV (one row an image), or a folder of Cartoon Set pairs (`csX.csv` beside `csX.png`)

Outputs (a row is a line of the annotation file; text cells never start a spreadsheet formula):
    annotations.csv          filename, lot, path (relative to raw), then a column per attribute: class index, empty if
                             unknown; sorted by filename, one row an accepted image
    rejected.csv             source, row (line number), filename, reason: rows left out
    warnings.csv             source, row, filename, reason: rows kept with a remark, and repeats of a row
    unannotated.csv          filename, lot, path, reason: images that no row names, and files of the raw folder that are
                             not read (links, hidden, other types), as found when the stage ran
    data_docs/index.html     what the suite found; suite.html: what it expects. They open without network access
    metrics/validation.json  counts of all of the above, per reason, lot and attribute

When the stage fails on the data, all but annotations.csv are kept in the `failed-...` folder that the error names.
"""
