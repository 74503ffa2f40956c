try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "fastiter.torch needs PyTorch, which is not installed: pip install fastiter-kernels[torch]", name="torch"
    ) from None
