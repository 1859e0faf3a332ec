# The one vocabulary; CI calls only this.
export PYTHONUTF8 = 1# names of files are UTF-8, whatever the locale says
.PHONY: help run report serve up down ps logs quick coverage test test-faults check docs bench stage data venv lock audit engine stop images push pull sbom

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

run: ## set everything up and run the pipeline once; DATA=<folder> for other data, RECIPE=photographs, ENGINE=none without containers
	@scripts/run

report: venv ## copy the report of the newest run to reports/ and name it; DATA=<folder>; ENGINE=none for `dvc repro`
	@.venv/bin/python scripts/run_pipeline.py --report $(if $(filter none,$(ENGINE)),--engine none) $(if $(DATA),--data "$(DATA)")

serve: venv ## serve what `make run ENGINE=none` made last, released or not, at http://localhost:8090, without containers; SERVE_PORT=<port>
	@SERVE_UNRELEASED=yes .venv/bin/python -m images.serve

up: ## start Airflow on PostgreSQL and print its address; DATA=<folder> for other data, RECIPE=photographs, PROFILE=celery for workers, PROFILE=metrics for Prometheus
	@scripts/up

down: ## stop it; data, models and the database stay
	@docker compose --profile '*' down

ps: ## the state of its services
	@docker compose --profile '*' ps --all

logs: ## follow its logs
	@docker compose --profile '*' logs --follow --tail 100

quick: venv check ## checks, and the tests that need neither an engine nor a browser nor much time
	@.venv/bin/pytest --numprocesses logical --maxprocesses 4 --dist loadfile -m "not (docker or browser or slow)"

coverage: venv ## the tests of `make quick` with the share of lines that they run in their own process
	@.venv/bin/pytest --numprocesses logical --maxprocesses 4 --dist loadfile -m "not (docker or browser or slow)" \
		--cov=stages --cov=dags --cov-report=term:skip-covered

test: ## set everything up and run all checks and tests
	@scripts/test

test-faults: ## the tests that kill parts of a running stack
	@scripts/test -m faults

check: venv ## formatting, lint, types, and links of the documents
	@scripts/check

docs: venv ## build README and all pages as a site that opens without a network: site/index.html
	@scripts/docs

bench: ## measure every figure of bench/README.md; DATA=<folder> for real faces, ONLY="train search" for some
	@scripts/bench

stage: venv ## make the files of a new stage: NAME=explain; LIKE=<stage> for its libraries, INPUTS="validate evaluate"
	@.venv/bin/python scripts/new_stage.py "$(NAME)" $(if $(LIKE),--like "$(LIKE)") $(if $(INPUTS),--inputs $(INPUTS))

data: venv ## draw the sample data set into data/, and let DVC keep it
	@.venv/bin/python -m data.make_samples --out data
	@.venv/bin/dvc commit --quiet data/raw.dvc data/annotations.csv.dvc

venv: ## make .venv, the development environment
	@scripts/venv

lock: venv ## compile every requirements.in to its locked requirements.txt
	@scripts/lock

audit: venv ## look for known vulnerabilities of what the locks name, where a network allows
	@.venv/bin/python scripts/audit

engine: ## find a container engine, or install and start one
	@scripts/engine start

stop: ## stop the engine that `make engine` started, and no other
	@scripts/engine stop

images: engine ## build the images whose inputs changed, or STAGES="train evaluate"
	@scripts/images $(STAGES)

push: images venv ## push them to the registry FACE_ATTRIBUTES_IMAGES; their digests go to images.lock, their contents to sbom/
	@.venv/bin/python scripts/sbom.py --built # what cannot be described is not pushed
	@scripts/registry push
	@.venv/bin/python scripts/sbom.py

pull: engine ## fetch the images of images.lock, or else the newest ones, from FACE_ATTRIBUTES_IMAGES
	@scripts/registry pull

sbom: images venv ## write to sbom/ what each image contains (CycloneDX)
	@.venv/bin/python scripts/sbom.py
