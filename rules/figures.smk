rule tables:
    input:
        tidy_tables,
    output:
        expand("results/{{suite}}/tables/{name}.{ext}", name=TABLE_NAMES, ext=FORMATS),
    log:
        "results/{suite}/logs/tables.log",
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        tidy=tidy_folder,
        code=tables_code,
    shell:
        "python -m bridge tables --suite {wildcards.suite} --tidy {params.tidy} > {log} 2>&1"


rule draw:
    input:
        tidy_tables,
    output:
        expand(
            "figures/{{suite}}/{name}.{ext}",
            name=list(CAPTIONS),
            ext=("png", "pdf", "svg"),
        ),
    log:
        "results/{suite}/logs/figures.log",
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        tidy=tidy_folder,
        code=figures_code,
    shell:
        "python -m bridge figures --suite {wildcards.suite} --tidy {params.tidy} > {log} 2>&1"


rule report:
    input:
        tidy_tables,
        tables=TABLES,
        figures=FIGURES,
    output:
        "results/{suite}/report.html",
    log:
        "results/{suite}/logs/report.log",
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        tidy=tidy_folder,
        code=report_code,
    shell:
        "python -m bridge report --suite {wildcards.suite} --tidy {params.tidy} > {log} 2>&1"
