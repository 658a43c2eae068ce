rule evaluate:
    input:
        f"{RUN}/done.json",
    output:
        f"{RUN}/scores.json",
    log:
        "results/{suite}/logs/evaluate/{model}/{dataset}/{method}/seed{seed}.log",
    group:
        short_group
    conda:
        "../envs/evaluate.yaml"
    threads: USER.threads
    resources:
        mem_mb=memory_mb,
        runtime=evaluation_minutes,
        gpu=gpus,
    params:
        hash=spec_hash,
        code=evaluate_code,
    shell:
        "exec python -m bridge.machine.gpu_slots {resources.gpu}"
        " python -m bridge evaluate --suite {wildcards.suite}"
        ' --overrides "$BRIDGE_OVERRIDES"'
        " --model {wildcards.model} --dataset {wildcards.dataset}"
        " --method {wildcards.method} --seed {wildcards.seed}"
        " --threads {threads} --expect {params.hash} > {log} 2>&1"
