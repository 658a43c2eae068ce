# The coupling study: `snakemake --cores all coupling --config suite=coupling`.
#
# Expert's reward -> first phases -> predictions -> second phases -> comparison. The rule `train` asks
# for the first two before_training, so no second phase can start before its predictions are written.
STUDY_TABLES = ("changes", "signs", "sizes", "courses")
STUDY_FIGURES = expand(
    "figures/{suite}/coupling_{name}.{ext}",
    suite=PLAN.name,
    name=("courses", "predictions", "signs"),
    ext=("png", "pdf", "svg"),
)


rule expert:
    input:
        study_bases,
    output:
        "results/{suite}/coupling/expert.csv",
    log:
        "results/{suite}/logs/coupling/expert.log",
    conda:
        "../envs/train.yaml"
    threads: USER.threads
    resources:
        mem_mb=2000,
        runtime=60,
        gpu=study_gpus,
    params:
        hash=study_hash,
    shell:
        "exec python -m bridge.machine.gpu_slots {resources.gpu}"
        " python -m studies.coupling.cli check --suite {wildcards.suite}"
        ' --overrides "$BRIDGE_OVERRIDES" --threads {threads} > {log} 2>&1'


# No fingerprint of the code: predictions hold for the policies they were made from, and Snakemake
# would delete them to make them anew, which is too late once a second phase has begun.
rule predict:
    input:
        "results/{suite}/coupling/expert.csv",
        first_phases,
    output:
        "results/{suite}/coupling/predictions.csv",
    log:
        "results/{suite}/logs/coupling/predict.log",
    conda:
        "../envs/train.yaml"
    threads: USER.threads
    resources:
        mem_mb=2000,
        runtime=60,
        gpu=study_gpus,
    params:
        hash=study_hash,
    shell:
        "exec python -m bridge.machine.gpu_slots {resources.gpu}"
        " python -m studies.coupling.cli predict --suite {wildcards.suite}"
        ' --overrides "$BRIDGE_OVERRIDES" --threads {threads} > {log} 2>&1'


rule observe:
    input:
        "results/{suite}/coupling/predictions.csv",
        runs_of_seed,
    output:
        "results/{suite}/coupling/observed/seed{seed}.csv",
    log:
        "results/{suite}/logs/coupling/observe/seed{seed}.log",
    conda:
        "../envs/train.yaml"
    threads: USER.threads
    resources:
        mem_mb=2000,
        runtime=60,
        gpu=study_gpus,
    params:
        hash=study_hash,
        code=observe_code,
    shell:
        "exec python -m bridge.machine.gpu_slots {resources.gpu}"
        " python -m studies.coupling.cli observe --suite {wildcards.suite}"
        ' --overrides "$BRIDGE_OVERRIDES" --seed {wildcards.seed}'
        " --threads {threads} > {log} 2>&1"


rule compare:
    input:
        "results/{suite}/coupling/predictions.csv",
        observed_seeds,
    output:
        expand("results/{{suite}}/coupling/{name}.csv", name=STUDY_TABLES),
    log:
        "results/{suite}/logs/coupling/compare.log",
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        hash=study_hash,
        code=compare_code,
    shell:
        "python -m studies.coupling.cli compare --suite {wildcards.suite}"
        ' --overrides "$BRIDGE_OVERRIDES" > {log} 2>&1'


rule draw_study:
    input:
        study_tables,
    output:
        STUDY_FIGURES,
    log:
        f"results/{PLAN.name}/logs/coupling/draw.log",
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        tables=study_folder,
        figures=study_figures,
        code=draw_study_code,
    shell:
        "python -m studies.coupling.cli draw --tables {params.tables}"
        " --figures {params.figures} > {log} 2>&1"


rule coupling:
    input:
        STUDY_FIGURES,
