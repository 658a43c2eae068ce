# The policy and the checkpoints for resuming lie beside done.json, undeclared: Snakemake deletes the
# outputs of a job that fails, and those must survive.
rule train:
    input:
        base_of_run,
        before_training,
    output:
        f"{RUN}/done.json",
    log:
        "results/{suite}/logs/train/{model}/{dataset}/{method}/seed{seed}.log",
    priority: length
    conda:
        "../envs/train.yaml"
    threads: USER.threads
    resources:
        mem_mb=2000,
        gpu=gpus,
    params:
        hash=train_hash,
        code=train_code,
    shell:
        "python -m bridge train --suite {wildcards.suite}"
        ' --overrides "$BRIDGE_OVERRIDES"'
        " --model {wildcards.model} --dataset {wildcards.dataset}"
        " --method {wildcards.method} --seed {wildcards.seed}"
        " --threads {threads} --expect {params.hash} > {log} 2>&1"
