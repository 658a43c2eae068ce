# Every cell of a suite: base models -> training -> evaluation -> tables, figures, report.
#
#   snakemake -n                                 the plan; needs no torch
#   snakemake --cores all                        the suite named in config.yaml
#   snakemake --cores all --config suite=smoke   another suite
#   snakemake --cores all figures                tables, figures and the report only
#   snakemake --cores all tune --config suite=tune    the grid of learning rates, and what it chose
#
# What a suite holds: suites/<name>.yaml. What a run writes: bridge/store/records.py.
from snakemake.utils import min_version

min_version("9.27")


# First, because it explains mistakes in the configuration.
include: "rules/common.smk"


configfile: "config.yaml"


# Of every rule; used with --software-deployment-method apptainer only.
container: USER.container


include: "rules/resources.smk"
include: "rules/prepare.smk"
include: "rules/train.smk"
include: "rules/evaluate.smk"
include: "rules/collect.smk"
include: "rules/figures.smk"


localrules:
    all,
    figures,
    tune,


onstart:
    if not (workflow.non_local_exec or workflow.remote_exec):
        # With a limit on submissions, Snakemake looks at all waiting jobs and their files again a second
        # after each look, and every job that ends begins another such row of looks: a third of a core
        # where 150 jobs wait. Jobs on this machine are limited by its cores.
        workflow.scheduler.job_rate_limiter = None
    if warm_start_pays():
        warm.start()
    if USER.tracking and not workflow.remote_exec:
        start_tracking(PLAN.name, Path("results"), USER.tracking)


onerror:
    print(failure_text(log), file=sys.stderr)


rule all:
    default_target: True
    input:
        TABLES,
        FIGURES,
        REPORT,
        CHOICE,


rule figures:
    input:
        TABLES,
        FIGURES,
        REPORT,
