"""What each function of torch does to the signal, by its name.

Names are those of the functions that torch hands to a `TorchFunctionMode`, without the underscores
of in-place and operator variants. A name that is not here is a function of its own kind: what
follows the layer then is "not known", by that name.
"""

from __future__ import annotations

from torch import nn

ACTIVATIONS = frozenset(
    {"relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "celu", "selu", "gelu", "silu", "mish"}
    | {"hardswish", "hardtanh", "hardsigmoid", "softplus", "softsign", "tanh", "sigmoid", "expit"}
    | {"glu", "logsigmoid", "hardshrink", "softshrink", "tanhshrink", "threshold", "sin", "erf"}
)
CLAMPS = frozenset({"clamp", "clip", "clamp_min"})
"""A ReLU if their lower bound is 0 and there is no upper one."""
NORMS = frozenset(
    {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "native_layer_norm"}
    | {"normalize", "local_response_norm", "native_group_norm", "native_batch_norm"}
)
MATRIX = frozenset({"matmul", "mm", "bmm", "rmatmul"})
ADD_MATRIX = frozenset({"addmm", "baddbmm", "addbmm"})
"""Products of matrices, and such as add something first."""
CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
WEIGHTED = CONVOLUTIONS | TRANSPOSED | {"linear", "bilinear"}
"""Functions that are given a weight by that name."""
EMBEDDINGS = frozenset({"embedding", "embedding_bag"})
ATTENTION = frozenset({"scaled_dot_product_attention"})
MULTI_HEAD = "multi_head_attention_forward"
RECURRENT = frozenset(
    {"lstm", "gru", "rnn_tanh", "rnn_relu"}
    | {"lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}
)
SOFTMAX = frozenset({"softmax", "log_softmax", "gumbel_softmax", "softmin"})
ADDITIONS = frozenset({"add", "iadd", "radd", "sub", "isub", "rsub", "subtract"})
PRODUCTS = frozenset(
    {"mul", "imul", "rmul", "multiply", "div", "truediv", "itruediv", "rtruediv", "divide"}
)
STATISTICS = frozenset(
    {"pow", "square", "abs", "sqrt", "rsqrt", "var", "std", "norm", "vector_norm", "reciprocal"}
    | {"var_mean", "std_mean", "ipow", "rpow", "absolute"}
)
"""What a norm that is written out divides by is made of these."""
LINES = frozenset(
    {"view", "reshape", "flatten", "unflatten", "transpose", "permute", "movedim", "swapaxes"}
    | {"contiguous", "unsqueeze", "squeeze", "chunk", "split", "tensor_split", "unbind", "getitem"}
    | {"select", "narrow", "index_select", "gather", "expand", "expand_as", "repeat", "tile"}
    | {"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "to", "type", "half"}
    | {"float", "double", "bfloat16", "clone", "detach", "requires_grad", "dropout", "dropout1d"}
    | {"dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"}
    | {"avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"}
    | {"adaptive_avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d"}
    | {"adaptive_max_pool2d", "adaptive_max_pool3d", "boolean_dispatch", "fn", "lp_pool2d"}
    | {"interpolate", "upsample", "pad", "mean", "sum", "nansum", "cumsum", "amax", "max", "neg"}
    | {"masked_fill", "masked_select", "roll", "flip", "rot90", "pixel_shuffle", "view_as"}
    | {"pixel_unshuffle", "channel_shuffle", "unfold", "fold", "t", "T", "mT", "H", "mH", "data"}
    | {"real", "reshape_as", "type_as", "cpu", "cuda", "squeeze_copy", "identity", "where"}
    | {"adjoint", "swapdims", "index_put", "index_add", "scatter_add", "scatter", "atleast_2d"}
    | {"_max_pool1d", "_max_pool2d", "_max_pool3d", "_adaptive_max_pool2d", "grid_sample"}
    | {
        "as_strided",
        "diagonal",
        "lerp",
        "copy",
        "topk",
        "sort",
        "view_as_complex",
        "view_as_real",
        "pack_padded_sequence",
    }
)
"""What passes a signal on in proportion to itself, or picks from it."""
DROPOUTS = frozenset({"dropout", "dropout1d", "dropout2d", "dropout3d"})
"""Those that put zeros in place of what they drop."""
NEW = frozenset(
    {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"}
    | {"new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "bernoulli", "grad"}
)
"""What takes a tensor for its shape, and tells nothing of its values."""
TURNS = frozenset({"t", "T", "mT", "H", "mH", "transpose", "swapaxes", "swapdims", "adjoint"})
"""What swaps the dimensions of a matrix."""
GATED = {"sigmoid": "silu", "expit": "silu", "hardsigmoid": "hardswish", "relu6": "hardswish"} | {
    "erf": "gelu",
    "tanh": "gelu",
    "softplus": "mish",
}
"""What the product of a signal and a function of itself is."""
SHAPED = frozenset({"leaky_relu", "elu", "celu"})
"""Activations that have a slope or an alpha."""
CASTS = frozenset({"to", "type", "float", "half", "bfloat16", "detach", "contiguous"})
SAME = {"expit": "sigmoid", "rrelu": "leaky_relu", "prelu": "leaky_relu"}
"""Functions that go by the name of another."""
MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.LeakyReLU: "leaky_relu",
    nn.PReLU: "prelu",
    nn.RReLU: "rrelu",
    nn.ELU: "elu",
    nn.CELU: "celu",
    nn.SELU: "selu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Mish: "mish",
    nn.Hardswish: "hardswish",
    nn.Hardtanh: "hardtanh",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Softplus: "softplus",
    nn.Softsign: "softsign",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.GLU: "glu",
    nn.Softmax: "softmax",
    nn.LogSoftmax: "softmax",
}
"""Activations that are modules, for networks that are not run."""


def plain_name(name: str) -> str:
    """Return a function's name without what marks its variants.

    Example:
        >>> plain_name("relu_"), plain_name("__iadd__"), plain_name("_weight_norm")
        ('relu', 'iadd', '_weight_norm')
    """
    if name.startswith("__"):
        return name.strip("_")
    return name.removesuffix("_")


def is_loss(name: str) -> bool:
    """Whether a function compares predictions with targets."""
    return name.endswith("_loss") or "cross_entropy" in name or name == "kl_div"
