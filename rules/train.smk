# The policy and the checkpoints for resuming lie beside done.json, undeclared: Snakemake deletes the
# outputs of a job that fails, and those must survive. `exec`, here and in the other jobs that can be
# stopped: a shell in between would die of the signal that its program is still answering, and a
# cluster kills what is left of a job whose first process has ended.
rule train:
    input:
        base_of_run,
    output:
        f"{RUN}/done.json",
    log:
        "results/{suite}/logs/train/{model}/{dataset}/{method}/seed{seed}.log",
    priority: length
    group:
        short_group
    conda:
        "../envs/train.yaml"
    threads: training_threads
    resources:
        mem_mb=memory_mb,
        runtime=training_minutes,
        gpu=training_gpus,
        # Not in params: threads change no result.
        process_threads=USER.threads,
    params:
        hash=train_hash,
        code=train_code,
    shell:
        "exec python -m bridge.machine.gpu_slots {resources.gpu}"
        " python -m bridge train --suite {wildcards.suite}"
        ' --overrides "$BRIDGE_OVERRIDES"'
        " --model {wildcards.model} --dataset {wildcards.dataset}"
        " --method {wildcards.method} --seed {wildcards.seed}"
        " --threads {resources.process_threads} --expect {params.hash} > {log} 2>&1"
