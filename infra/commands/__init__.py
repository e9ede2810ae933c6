"""The commands of `naturaltone`, one file each: its arguments and what it does.

A command imports heavy packages only when it runs, so that `--help` answers at once.

May import: infra, infra.bench, infra.doctor, pipeline, pipeline.dataset, pipeline.photo, serving, serving.archive,
serving.evaluation, serving.service, serving.sheet, training.
"""
