# The runs of the papers' artefacts for Snakemake, on this machine's cores or on a cluster:
#
#   snakemake -s reid_core/workflow.smk --cores 8 --keep-going --rerun-incomplete \
#       --rerun-triggers mtime --config artefacts="mrda-T1 mrda-T2" seeds="0 1 2"
#
# and `--executor slurm --jobs 20` or `--executor kubernetes` for a cluster. What a run needs can be
# said with --config: threads, mem_mb, runtime (minutes), gpus (0 by default). Afterwards
# `python -m reid_core reproduce` with the same artefacts finds everything finished, and draws.
# `--rerun-triggers mtime`: a run is done when it is finished, and an edit of this file changes none.

from reid_core import reproduce
from reid_core.drawings import Place
from reid_core.config import profile_datasets
from reid_core.paths import results_folder

RUNS = (results_folder() / "runs").as_posix()
profile = config.get("profile", "demo")
place = Place(profile, **profile_datasets(profile), data=str(config.get("data", "")))
jobs = reproduce.plan(
    reproduce.chosen(str(config.get("artefacts", "")).split()),
    place,
    seeds=[int(seed) for seed in str(config.get("seeds", "0")).split()],
    trials=[int(trial) for trial in str(config.get("trials", "1")).split()],
)


rule all:
    input:
        [f"{RUNS}/{job.name}/metrics.json" for job in jobs],


rule run:
    output:
        RUNS + "/{run}/metrics.json",
    log:  # not an output: those of a failed job are deleted, and this one holds the error
        notebook=RUNS + "/{run}/notebook.ipynb",
    threads: int(config.get("threads", 1))
    resources:
        mem_mb=int(config.get("mem_mb", 4000)),
        runtime=int(config.get("runtime", 60)),
        gpus=int(config.get("gpus", 0)),
    params:
        data=f"--data '{place.data}'" if place.data else "",
    shell:
        "OMP_NUM_THREADS={threads} python -m reid_core reproduce --only {wildcards.run} "
        "--jobs 1 {params.data}"
