# The runs of the papers' artefacts for Snakemake, on this machine's cores or on a cluster. In an
# environment with the extra (pip install -e '.[cluster]'), from the repository's root:
#
#   snakemake -s reid_core/workflow.smk --cores 8 --keep-going --rerun-incomplete \
#       --rerun-triggers mtime --config artefacts="mrda-T1 mrda-T2" seeds="0 1 2"
#
# --config takes what `python -m reid_core reproduce` takes: artefacts, profile, dataset, data,
# seeds, trials. The same line after a crash, with `--unlock` once before it, goes on where every
# run stood. `python -m reid_core reproduce` with the same artefacts then finds everything finished,
# and draws. A run is done when its metrics.json is there, hence `--rerun-triggers mtime`: an edit
# of this file changes none.
#
# On SLURM, whose nodes see this folder and this Python under the same path:
#
#   snakemake … --executor slurm --jobs 20 --set-threads run=4 \
#       --set-resources run:mem_mb=16000 run:runtime=600 run:gpu=1
#
# runtime is in minutes; leave gpu out where there is none. A cluster without accounting needs
# `--slurm-status-command squeue --slurm-no-account` too: Snakemake would wait for ever. Jobs outlive
# a Snakemake that crashed: scancel them, or wait for their end, before the same line goes on.
#
# On Kubernetes, whose pods share a volume claim, here named companion, at /companion, with a machine
# or pod that also sees it there and starts the line (Snakemake copies the sources to the pods by
# way of `storage`, and needs rsync for that on both sides):
#
#   REID_DATA=/companion/data REID_RESULTS=/companion/results snakemake … --jobs 20 \
#       --executor kubernetes --container-image IMAGE --kubernetes-persistent-volumes \
#       companion:/companion --default-storage-provider fs --default-storage-prefix /companion/storage
#
# IMAGE is one with rsync in which this project is installed with its extra (pip install
# '.[cluster]'); what runs are the sources from here. A GPU is
# `--set-resources run:gpu=1 run:gpu_manufacturer=nvidia`. Records of pods say commit "unknown":
# git's own files do not travel. After a crash the same holds as on SLURM.

import os
import sys

from reid_core import reproduce
from reid_core.config import ConfigError
from reid_core.paths import runs_folder


known = {"artefacts", "profile", "dataset", "data", "seeds", "trials"}
if unknown := config.keys() - known:
    raise ConfigError(f"--config: found {sorted(unknown)}, expected some of {sorted(known)}.")


def words(key, default=""):
    return str(config.get(key, default)).split()


if folders := [name for name in ("REID_DATA", "REID_RESULTS") if os.environ.get(name)]:

    envvars:  # for jobs on Kubernetes, which do not inherit them
        *folders,


RUNS = runs_folder().as_posix()
place = reproduce.place_of(
    config.get("profile", "demo"), words("dataset"), str(config.get("data", ""))
)
jobs = reproduce.plan(
    reproduce.chosen(words("artefacts")),
    place,
    seeds=[int(seed) for seed in words("seeds", "0")],
    trials=[int(trial) for trial in words("trials", "")],
)
for job in jobs:  # a metrics.json of other settings would pass for theirs
    job.finished()


rule all:
    input:
        [f"{RUNS}/{job.name}/metrics.json" for job in jobs],


rule run:
    output:
        RUNS + "/{run}/metrics.json",
    log:  # not an output: those of a failed job are deleted, and this one holds the error
        notebook=RUNS + "/{run}/notebook.ipynb",
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        python=sys.executable,
        data=["--data", place.data] if place.data else [],
        metrics=RUNS + "/{run}/metrics.json",
    shell:
        "OMP_NUM_THREADS={threads} {params.python:q} -m reid_core reproduce --only {wildcards.run} "
        "--jobs 1 {params.data:q} && "
        # on Kubernetes the output is a copy, which Snakemake then takes to its storage
        "( [ {params.metrics:q} -ef {output:q} ] || cp {params.metrics:q} {output:q} )"
