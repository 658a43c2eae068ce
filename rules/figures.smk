# What `snakemake --report` shows, with the captions in report/.
report: "../report/workflow.rst"


rule tables:
    input:
        tidy_tables,
    output:
        expand(
            "results/{{suite}}/tables/{name}.{ext}",
            name=TABLE_NAMES,
            ext=[ext for ext in TABLE_FORMATS if ext != "html"],
        ),
        [
            report(
                f"results/{{suite}}/tables/{name}.html",
                caption=f"../report/{name}.rst",
                category="Tables",
                labels={"table": name},
            )
            for name in TABLE_NAMES
        ],
    log:
        "results/{suite}/logs/tables.log",
    group:
        "show"
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        tidy=tidy_folder,
        expected=TABLE_NAMES,
        code=tables_code,
    shell:
        "python -m bridge tables --suite {wildcards.suite} --tidy {params.tidy}"
        " --expected {params.expected} > {log} 2>&1"


rule draw:
    input:
        tidy_tables,
    output:
        expand(
            "figures/{{suite}}/{name}.{ext}", name=list(CAPTIONS), ext=("pdf", "svg")
        ),
        [
            report(
                f"figures/{{suite}}/{name}.png",
                caption=f"../report/{name}.rst",
                category="Figures",
                labels={"figure": title},
            )
            for name, (title, _) in CAPTIONS.items()
        ],
    log:
        "results/{suite}/logs/figures.log",
    group:
        "show"
    conda:
        "../envs/report.yaml"
    threads: 2
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        tidy=tidy_folder,
        code=figures_code,
    shell:
        "python -m bridge figures --suite {wildcards.suite} --tidy {params.tidy}"
        " --processes {threads} > {log} 2>&1"


rule report:
    input:
        tidy_tables,
        tables=TABLES,
        figures=FIGURES,
    output:
        report(
            "results/{suite}/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"page": "everything on one page"},
        ),
    log:
        "results/{suite}/logs/report.log",
    group:
        "show"
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        tidy=tidy_folder,
        code=report_code,
    shell:
        "python -m bridge report --suite {wildcards.suite} --tidy {params.tidy} > {log} 2>&1"


# The grid of learning rates: `snakemake --cores all tune --config suite=tune`.
rule tune:
    input:
        rate_table,
        REPORT,
