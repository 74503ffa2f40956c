"""The Hopfield layer, with hopfield-layers' arguments and state_dict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...._check import check_flag, count, positive
from .hopfield_checks import check_masks, check_patterns, parts_of
from .hopfield_core import HopfieldCore, Sizes, Static, Updates
from .hopfield_views import Association


class Hopfield(Association, nn.Module):
    """Z = softmax(beta R W_Q (Y W_K)^T) Y W_V: retrieve from stored patterns Y by states R, after updates of R W_Q.

    The constructor's arguments, the shapes and the state_dict are those of hopfield-layers, whose checkpoints load.
    Updates of the states are those of :func:`fastiter.torch.fixedpoint.hopfield_update`, before the values are
    retrieved. The results follow the equations, also where that package deviates from them:

    - a tensor `scaling` is the beta of each head, not of every num_heads-th feature;
    - a query stops separately, once an update changes it by no more than update_steps_eps in norm; there, all queries
      of a head stop together, once no association matrix changes by more than update_steps_eps;
    - static patterns are the same for all heads, in batches too;
    - with concat_bias_pattern the patterns `bias_k` and `bias_v` are stored; there they are not used;
    - a query whose patterns are all masked retrieves 0, not NaN.

    Parameters
    ----------
    input_size : int, optional
        Width of the state patterns; None only if nothing is projected or normalised.
    hidden_size : int, optional
        Width of a head in the association space, input_size / num_heads by default.
    output_size : int, optional
        Width of the output, input_size by default.
    pattern_size : int, optional
        Width of a head's values, hidden_size by default.
    num_heads : int
        H.
    scaling : float or Tensor (H,), optional
        beta; a Parameter is trained. 1 / sqrt(hidden_size) by default.
    update_steps_max : int, None or Tensor (H,)
        The maximum number of updates before the association: 0 is attention. None, or a negative element: until each
        query has converged; the gradient is then that of the fixed points, otherwise it is through all updates.
    update_steps_eps : float or Tensor (H,)
        The change of a query at which it stops.
    normalize_stored_pattern, normalize_stored_pattern_affine : bool
        LayerNorm of the stored patterns, with weights.
    normalize_stored_pattern_eps : float
        Its epsilon.
    normalize_state_pattern, normalize_state_pattern_affine : bool
        The same for the state patterns.
    normalize_state_pattern_eps : float
        Its epsilon.
    normalize_pattern_projection, normalize_pattern_projection_affine : bool
        The same for the patterns that are projected to values.
    normalize_pattern_projection_eps : float
        Its epsilon.
    normalize_hopfield_space, normalize_hopfield_space_affine : bool
        LayerNorm of queries and keys in the association space, with weights that they and the heads share.
    normalize_hopfield_space_eps : float
        Its epsilon.
    stored_pattern_as_static, state_pattern_as_static, pattern_projection_as_static : bool
        Use these patterns unchanged in each head, without a projection.
    pattern_projection_as_connected : bool
        Values are Y W_K W_V instead of Y W_V.
    stored_pattern_size, pattern_projection_size : int, optional
        Widths of the stored patterns and of those projected to values, input_size by default.
    batch_first : bool
        Batches are (B, L, .), else (L, B, .).
    association_activation : str, optional
        The name of a function of torch that is applied to the output.
    dropout : float
        Probability of zeroing an element of the association matrix, while training.
    input_bias : bool
        Projections, of the output too, have a bias.
    concat_bias_pattern : bool
        Store one more pattern, a parameter.
    add_zero_association : bool
        Store a pattern of zeros.
    disable_out_projection : bool
        Return the heads' values, (B, L, H pattern_size).

    Raises
    ------
    TypeError, ValueError
        For an option of a wrong type or value.

    See Also
    --------
    HopfieldPooling : With learned state patterns.
    HopfieldLayer : With learned stored patterns.
    fastiter.torch.fixedpoint.hopfield_update : The updates as a function.

    References
    ----------
    Ramsauer et al., Hopfield networks is all you need, 2021.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import Hopfield
    >>> layer = Hopfield(input_size=16, num_heads=4, scaling=torch.tensor([0.5, 1.0, 2.0, 4.0]), update_steps_max=3)
    >>> stored, state = torch.randn(2, 10, 16), torch.randn(2, 5, 16)
    >>> layer((stored, state, stored)).shape
    torch.Size([2, 5, 16])
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        input_size: int | None = None,
        hidden_size: int | None = None,
        output_size: int | None = None,
        pattern_size: int | None = None,
        num_heads: int = 1,
        scaling: float | Tensor | None = None,
        update_steps_max: int | Tensor | None = 0,
        update_steps_eps: float | Tensor = 1e-4,
        normalize_stored_pattern: bool = True,
        normalize_stored_pattern_affine: bool = True,
        normalize_stored_pattern_eps: float = 1e-5,
        normalize_state_pattern: bool = True,
        normalize_state_pattern_affine: bool = True,
        normalize_state_pattern_eps: float = 1e-5,
        normalize_pattern_projection: bool = True,
        normalize_pattern_projection_affine: bool = True,
        normalize_pattern_projection_eps: float = 1e-5,
        normalize_hopfield_space: bool = False,
        normalize_hopfield_space_affine: bool = False,
        normalize_hopfield_space_eps: float = 1e-5,
        stored_pattern_as_static: bool = False,
        state_pattern_as_static: bool = False,
        pattern_projection_as_static: bool = False,
        pattern_projection_as_connected: bool = False,
        stored_pattern_size: int | None = None,
        pattern_projection_size: int | None = None,
        batch_first: bool = True,
        association_activation: str | None = None,
        dropout: float = 0.0,
        input_bias: bool = True,
        concat_bias_pattern: bool = False,
        add_zero_association: bool = False,
        disable_out_projection: bool = False,
    ) -> None:
        super().__init__()
        flags = {name: value for name, value in locals().items() if name in _FLAGS}
        for name, value in flags.items():
            check_flag("Hopfield", name, value)
        heads = count("Hopfield", "num_heads", num_heads, 1)
        static = Static(
            stored_pattern_as_static,
            state_pattern_as_static,
            pattern_projection_as_static,
            pattern_projection_as_connected,
        )
        untouched = all(static[:3]) and not (static.connected or normalize_hopfield_space) and disable_out_projection
        arguments = (input_size, hidden_size, output_size, pattern_size, stored_pattern_size, pattern_projection_size)
        sizes = Sizes(*[None] * 6) if untouched else _sizes(arguments, heads)
        options = {
            "dropout": positive("Hopfield", "dropout", dropout),
            "zero": add_zero_association,
            "normalize": normalize_hopfield_space,
            "normalize_affine": normalize_hopfield_space_affine,
            "normalize_eps": normalize_hopfield_space_eps,
            "own_values": pattern_size is not None,
            "no_output": disable_out_projection,
            "concat_bias": concat_bias_pattern,
        }
        _check_options(options, sizes, static)
        self.association_core = HopfieldCore(sizes, heads, static, bias=input_bias, options=options)
        self.association_activation = _activation(association_activation)
        stored_width = input_size if stored_pattern_size is None else stored_pattern_size
        projected_width = input_size if pattern_projection_size is None else pattern_projection_size
        self.norm_stored_pattern = _norm(
            "stored_pattern",
            normalize_stored_pattern,
            normalize_stored_pattern_affine,
            normalize_stored_pattern_eps,
            stored_width,
        )
        self.norm_state_pattern = _norm(
            "state_pattern",
            normalize_state_pattern,
            normalize_state_pattern_affine,
            normalize_state_pattern_eps,
            input_size,
        )
        self.norm_pattern_projection = _norm(
            "pattern_projection",
            normalize_pattern_projection,
            normalize_pattern_projection_affine,
            normalize_pattern_projection_eps,
            projected_width,
        )
        default = 1.0 if sizes.head is None else 1 / math.sqrt(sizes.head)
        self._set_scaling(default if scaling is None else scaling, heads)
        self._updates = Updates(
            _per_head("update_steps_max", update_steps_max, heads),
            _per_head("update_steps_eps", update_steps_eps, heads),
        )
        self._batch_first = batch_first

    def _set_scaling(self, scaling: float | Tensor, heads: int) -> None:
        """Store beta: a Parameter under its name in hopfield-layers, a tensor as a buffer that is not saved."""
        if not isinstance(scaling, Tensor):
            self.__scaling: Any = positive("Hopfield", "scaling", scaling, zero=False)
            return
        if scaling.shape != (heads,):
            raise ValueError(f"Hopfield: scaling must have shape (num_heads,) = ({heads},), got {tuple(scaling.shape)}")
        if not bool(((scaling > 0) & scaling.isfinite()).all()):
            raise ValueError(f"Hopfield: scaling must be finite and above 0, got {scaling.tolist()}")
        if isinstance(scaling, nn.Parameter):
            self.__scaling = scaling
        else:
            self.register_buffer("_Hopfield__scaling", scaling, persistent=False)

    def reset_parameters(self) -> None:
        """Initialize the association and the normalizations."""
        norms = (self.norm_stored_pattern, self.norm_state_pattern, self.norm_pattern_projection)
        for module in (self.association_core, *norms):
            if module is not None:
                module.reset_parameters()

    def _associate(
        self, input: Tensor | Sequence[Tensor], padding: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output (B, L, .), the association matrix and the values."""
        patterns = parts_of("Hopfield", input, 3, "a tensor or (stored, state, projection)")
        norms = (self.norm_stored_pattern, self.norm_state_pattern, self.norm_pattern_projection)
        names = ("stored patterns", "state patterns", "pattern projections")
        for name, x, norm in zip(names, patterns, norms, strict=True):
            if x.dim() != 3 or (norm is not None and x.shape[-1] != norm.normalized_shape[0]):
                width = "" if norm is None else f" with a last axis of {norm.normalized_shape[0]}"
                raise ValueError(f"Hopfield: {name} must have three axes{width}, got shape {tuple(x.shape)}")
        ordered = [x if self._batch_first else x.transpose(0, 1) for x in patterns]
        heads, batch = self.association_core.num_heads, check_patterns(*ordered)
        check_masks(padding, mask, (batch, heads, ordered[1].shape[1], ordered[0].shape[1]))
        stored, state, projection = (x if norm is None else norm(x) for x, norm in zip(ordered, norms, strict=True))
        scaling = self.__scaling
        beta = scaling if isinstance(scaling, Tensor) else state.new_full((heads,), scaling)
        return self.association_core((state, stored, projection), beta, self._updates, padding, mask)  # type: ignore[no-any-return]

    def forward(
        self,
        input: Tensor | Sequence[Tensor],
        stored_pattern_padding_mask: Tensor | None = None,
        association_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the retrieved values, (B, L, output_size).

        Parameters
        ----------
        input : Tensor, or three of them
            The stored patterns (B, S, .), the state patterns (B, L, .) and those projected to values (B, S, .), or one
            tensor that is all three.
        stored_pattern_padding_mask : bool Tensor (B, S), optional
            True where a pattern is not retrieved.
        association_mask : Tensor (L, S) or (B H, L, S), optional
            Likewise for each query; floats are added to the products.

        Returns
        -------
        Tensor (B, L, output_size)
            The retrieved values.
        """
        z = self._associate(input, stored_pattern_padding_mask, association_mask)[0]
        z = z if self._batch_first else z.transpose(0, 1)
        return z if self.association_activation is None else self.association_activation(z)  # type: ignore[no-any-return]

    @property
    def batch_first(self) -> bool:
        """Whether batches are (B, L, .)."""
        return self._batch_first

    @property
    def scaling(self) -> float | Tensor:
        """The beta of all heads, or a copy of the tensor with one for each head."""
        scaling: float | Tensor = self.__scaling
        return scaling.clone() if isinstance(scaling, Tensor) else scaling

    @property
    def sizes(self) -> Sizes:
        """The widths of patterns, heads and output."""
        return self.association_core.sizes

    state_pattern_dim = property(lambda self: self.sizes.state, doc="The width of the state patterns.")
    stored_pattern_dim = property(lambda self: self.sizes.stored, doc="The width of the stored patterns.")
    pattern_projection_dim = property(lambda self: self.sizes.projection, doc="The width that values come from.")

    @property
    def _association(self) -> Hopfield:
        return self


_FLAGS = (
    *(f"normalize_{name}{affine}" for name in ("stored_pattern", "state_pattern") for affine in ("", "_affine")),
    *(f"normalize_{name}{affine}" for name in ("pattern_projection", "hopfield_space") for affine in ("", "_affine")),
    *("stored_pattern_as_static", "state_pattern_as_static", "pattern_projection_as_static"),
    *("pattern_projection_as_connected", "batch_first", "input_bias", "concat_bias_pattern"),
    *("add_zero_association", "disable_out_projection"),
)


def _sizes(arguments: tuple[int | None, ...], heads: int) -> Sizes:
    """Return the widths, from those of input, a head, output, values, stored patterns and pattern projections."""
    names = (
        "input_size",
        "hidden_size",
        "output_size",
        "pattern_size",
        "stored_pattern_size",
        "pattern_projection_size",
    )
    for name, size in zip(names, arguments, strict=True):
        if size is not None:
            count("Hopfield", name, size, 1)
    width, head, out, values, stored, projection = arguments
    if width is None:
        raise ValueError("Hopfield: input_size must be given unless nothing is projected or normalised, got None")
    if head is None and width % heads:
        raise ValueError(f"Hopfield: num_heads must divide input_size = {width} without hidden_size, got {heads}")
    head = width // heads if head is None else head
    rest = (x if x is not None else default for x, default in ((values, head), (out, width)))
    return Sizes(width, stored or width, projection or width, head, *rest)


def _check_options(options: dict[str, Any], sizes: Sizes, static: Static) -> None:
    if options["dropout"] > 1:
        raise ValueError(f"Hopfield: dropout must be at most 1, got {options['dropout']}")
    if options["normalize_affine"] and not options["normalize"]:
        raise ValueError(
            "Hopfield: normalize_hopfield_space_affine must be False without normalize_hopfield_space, got True"
        )
    if options["concat_bias"] and (static.stored or static.projection or sizes.head != sizes.value):
        got = "static patterns" if sizes.head == sizes.value else f"pattern_size {sizes.value}"
        raise ValueError(
            f"Hopfield: concat_bias_pattern must be False unless values are like stored patterns, got {got}"
        )
    if static.connected and sizes.stored != sizes.projection:
        expected = f"pattern_projection_size must be stored_pattern_size = {sizes.stored} if connected"
        raise ValueError(f"Hopfield: {expected}, got {sizes.projection}")


def _norm(name: str, normalize: bool, affine: bool, eps: float, width: int | None) -> nn.LayerNorm | None:
    if affine and not normalize:
        raise ValueError(f"Hopfield: normalize_{name}_affine must be False without normalize_{name}, got True")
    if not normalize:
        return None
    if width is None:
        raise ValueError(f"Hopfield: input_size must be given for normalize_{name}, got None")
    return nn.LayerNorm(width, eps=positive("Hopfield", f"normalize_{name}_eps", eps), elementwise_affine=affine)


def _activation(name: str | None) -> Any:
    result = None if name is None else getattr(torch, name, None) if isinstance(name, str) else name
    if name is not None and (not isinstance(name, str) or not callable(result)):
        raise ValueError(f"Hopfield: association_activation must be the name of a function of torch, got {name!r}")
    return result


def _per_head(name: str, x: Any, heads: int) -> Any:
    """Return an option of all heads, or of each head, checked."""
    if isinstance(x, Tensor):
        if x.shape != (heads,) or (name.endswith("eps") and not bool((x > 0).all())):
            raise ValueError(f"Hopfield: {name} must have shape (num_heads,) = ({heads},), positive if eps, got {x}")
        if name == "update_steps_max" and (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool):
            raise TypeError(f"Hopfield: {name} must be a tensor of integers, got {x.dtype}")
        return x
    if name == "update_steps_max":
        return None if x is None else count("Hopfield", name, x)
    return positive("Hopfield", name, x, zero=False)
