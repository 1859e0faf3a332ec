"""The stages of the pipeline, one package each; `stages.common` holds what two or more of them share."""
