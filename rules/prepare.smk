rule prepare:
    output:
        "results/{suite}/models/{model}/base.json",
    log:
        "results/{suite}/logs/prepare/{model}.log",
    priority: 1_000_000
    conda:
        "../envs/train.yaml"
    threads: USER.threads
    resources:
        mem_mb=base_memory_mb,
        runtime=60,
        gpu=base_gpus,
    params:
        hash=base_hash,
        code=base_code,
    shell:
        "exec python -m bridge.machine.gpu_slots {resources.gpu}"
        " python -m bridge prepare --suite {wildcards.suite}"
        ' --overrides "$BRIDGE_OVERRIDES"'
        " --model {wildcards.model}"
        " --threads {threads} --expect {params.hash} > {log} 2>&1"
