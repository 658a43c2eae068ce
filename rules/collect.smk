# In no group: a group's job is asked after each of its inputs whether all of them are there, and here
# these are all runs of the suite.
rule collect:
    input:
        all_scores,
    output:
        expand("results/{{suite}}/tidy/{name}.parquet", name=TIDY_TABLES),
        "results/{suite}/tidy/manifest.json",
    log:
        "results/{suite}/logs/collect.log",
    conda:
        "../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        hash=PLAN.hash,
        code=collect_code,
    shell:
        "python -m bridge collect --suite {wildcards.suite}"
        ' --overrides "$BRIDGE_OVERRIDES"'
        " --expect {params.hash} > {log} 2>&1"


# Of a suite of trials: which settings validation chose for each row.
rule freeze:
    input:
        expand("results/{{suite}}/tidy/{name}.parquet", name=TIDY_TABLES),
    output:
        "results/{suite}/tidy/choice.json",
    log:
        "results/{suite}/logs/freeze.log",
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        hash=PLAN.hash,
    shell:
        "python -m bridge freeze --suite {wildcards.suite}"
        ' --overrides "$BRIDGE_OVERRIDES"'
        " --expect {params.hash} > {log} 2>&1"
