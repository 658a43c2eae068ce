# What a job asks of a cluster; on one machine, Snakemake counts cores and GPU slots only.


def short_group(wildcards):
    """Short runs share a job; training and evaluation of a long one are two."""
    return "short" if isinstance(run_of(wildcards).model_config, TinyModel) else None


def memory_mb(wildcards):
    return request_of_row(run_of(wildcards)).memory_mb


def training_minutes(wildcards):
    """Time limit; a run that needs longer saves before it, and goes on in another turn."""
    return request_of_row(run_of(wildcards)).training_minutes


def evaluation_minutes(wildcards):
    return request_of_row(run_of(wildcards)).evaluation_minutes


@once_per_row
def request_of_row(run):
    return request_of(run, USER.device)
