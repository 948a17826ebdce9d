"""What a vLLM worker on a CPU must have to take new weights; vLLM loads it into its worker processes.

`vllm serve ... --worker-extension-cls sieverl.engines.vllm_worker.PlainKernels`
"""

from __future__ import annotations


def plain_cpu_kernels() -> None:
    """On a CPU, compute linear layers from their weights; to be called before vLLM loads a model.

    By default vLLM packs the weights of each layer into a kernel of its own and goes on with the packed copy after
    `reload_weights`: no error, old weights (vLLM 0.32, `dispatch_cpu_unquantized_gemm`).
    """
    from vllm import _custom_ops
    from vllm.model_executor.layers import utils
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        _custom_ops._supports_onednn = False
        utils.check_cpu_sgl_kernel = lambda n, k, dtype: False


class PlainKernels:
    """A vLLM worker extension: to name it is enough."""

    def has_plain_kernels(self) -> bool:
        """Whether new weights reach the kernels; a server without this extension has no such method."""
        return True


def _in_a_worker() -> bool:
    """Whether vLLM itself is loading this module, rather than SieveRL or a test."""
    import sys

    return "vllm.v1.worker.worker_base" in sys.modules


if _in_a_worker():
    plain_cpu_kernels()
