"""A whole recurrent language model as one compiled call per token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..._check import check_flag, count, type_name
from ...accelerate._torch.apply import undo, use_kernels
from .._pack import PackedMatrix
from .._program import Program
from ..plan import Matrix, Plan
from .cache import bind, cache_of, new_cache, position_ids, states_of
from .generate import Options, generate
from .plans import STARTS_ANEW, plan_of
from .report import DecoderReport, report_of
from .sequences import SMALLEST_CAPACITY, Sequences, loaded_sequences, sequences_of
from .skeleton import own_tensors, packed_parts, shared_copy, use_packed
from .trial import check_equations
from .weights import FormatLike, Weights, choose, pack_all

__all__ = ["Decoder"]

#: Sequences that one call advances
MAX_ROWS = 8
#: Tokens of a prompt that are read one by one; longer prompts run through the model's layers
_SHORT = 8


class Decoder:
    """A language model of transformers whose step, one token for up to 8 sequences, is one compiled call.

    The weights are packed once, in the model's numbers or in a narrower format; activations and states stay in float32
    (float64 for a model in float64). A step reads the weights once and runs without Python: embedding, norms,
    projections, convolutions, recurrences, attention and head. Prompts of more than 8 tokens run through the model's
    own layers with fastiter's sequence kernels and the same packed weights.

    Parameters
    ----------
    model : Module
        A model for causal language modelling of transformers: Mamba, FalconMamba, Mamba-2, Qwen3.5, Granite-4 H, LFM2,
        Falcon-H1, and those that docs/decode lists; accelerated or not, in eval mode, on the CPU.
    weights : str, Format or mapping, optional
        The format of the matrices: "f32", "bf16", "int8", "int4", "nf4", "mxfp4", "mxfp8" or "nvfp4", rounded as
        :func:`fastiter.quant.encode` does; or formats by shell patterns of layers' names, of which the first that
        matches counts. By default the numbers of the model.
    head : str or Format, optional
        The format of the head alone.
    group : int, optional
        Inputs that share a scale, for "int8", "int4" and "nf4"; 32 by default.
    keep : bool
        Keep the model's own copies of the packed weights. By default the model drops them, and its own layers multiply
        by the packed numbers.
    threads : int, optional
        Threads of a step; by default the number of :func:`fastiter.get_num_threads`.
    trial : bool
        Compare steps with those of the model, so that a version of transformers with other equations is refused. It
        takes the time of three to six steps of the model's own classes, which multiply by the packed weights.

    Attributes
    ----------
    report : DecoderReport
        Layers, formats and the bytes that a token reads.

    Raises
    ------
    TypeError, ValueError
        For a model without a plan, with the module or option that is unknown; for a model whose steps are not those of
        its plan, with its class and version; for a model in training mode; for formats without a product, and patterns
        that match no layer.

    See Also
    --------
    fastiter.torch.accelerate : ``decode=`` lets ``model.generate`` use a decoder.
    fastiter.torch.decode.load : A decoder from files, with little memory.

    Examples
    --------
    >>> import torch, transformers
    >>> from fastiter.torch import Decoder
    >>> config = transformers.MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2)
    >>> decoder = Decoder(transformers.MambaForCausalLM(config).eval(), weights="int8")
    >>> decoder.prefill(torch.tensor([[3, 1, 4]])).shape
    torch.Size([1, 50])
    >>> decoder.step(torch.tensor([1])).shape
    torch.Size([1, 50])
    >>> decoder.generate(torch.tensor([[5, 9]]), max_new_tokens=3).shape
    torch.Size([1, 5])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        weights: Weights = None,
        head: FormatLike = None,
        group: int | None = None,
        keep: bool = False,
        threads: int | None = None,
        trial: bool = True,
    ) -> None:
        check_flag("Decoder", "keep", keep)
        check_flag("Decoder", "trial", trial)
        self._threads = 0 if threads is None else count("Decoder", "threads", threads, 1, 256)
        check_decodable("Decoder", model)
        copied = shared_copy(model)
        undo(copied)
        plan = plan_of(copied)
        parameters = dict(copied.named_parameters())
        matrices = pack_all(parameters, choose(plan, parameters, weights, head, group))
        self._build(copied, plan, matrices, trial)
        if not keep:
            use_packed(model, packed_parts(model, matrices, None))

    def _build(self, model: Any, plan: Plan, matrices: Mapping[Matrix, PackedMatrix], trial: bool) -> None:
        """Set what all sequences share; ``model`` becomes the one that reads prompts."""
        is_double = any(packed.format == "f64" for packed in matrices.values())
        self._dtype = torch.float64 if is_double else torch.float32
        self.config: Any = model.config
        self.plan: Plan = plan
        self.report: DecoderReport = report_of(plan, matrices, 8 if is_double else 4)
        self._program = Program(plan, matrices, "float64" if is_double else "float32", threads=self._threads)
        use_packed(model, packed_parts(model, matrices, self._dtype))
        own_tensors(model, self._dtype)
        if hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation("eager")  # one by one: others unpack all, and refuse narrow ones
        use_kernels(model)
        self._model: Any = model
        self._sequences: Sequences | None = None
        if trial:
            check_equations(model, plan, self._dtype, self._step)

    # ---- Reading ----------------------------------------------------------------------------------------------------

    def step(self, tokens: Tensor) -> Tensor:
        """Read one token of each sequence, and return the logits of the next.

        Parameters
        ----------
        tokens : Tensor, int64, (B,)
            A token of each sequence, B at most 8; the first call after :meth:`reset` starts B sequences.

        Returns
        -------
        logits : Tensor, float32 or float64, (B, vocabulary)
            The same bits for any number of threads, and for a sequence alone or among others.

        Raises
        ------
        TypeError, ValueError
            If tokens are no int64 tensor on the CPU; for a wrong shape, a token out of the vocabulary, or another
            number of sequences.
        """
        sequences = self._started("step", _checked_tokens("step", tokens, 1))
        check_range("step", tokens, self._program.vocabulary)
        return self._step(sequences, tokens)

    def prefill(self, tokens: Tensor) -> Tensor:
        """Read several tokens of each sequence, and return the logits after the last.

        Parameters
        ----------
        tokens : Tensor, int64, (B, T)
            The next tokens, T >= 1: a prompt, or more tokens of the sequences so far.

        Returns
        -------
        logits : Tensor, float32 or float64, (B, vocabulary)
            Equal to those of T steps up to rounding.

        Raises
        ------
        TypeError, ValueError
            If tokens are no int64 tensor on the CPU; for a wrong shape, a token out of the vocabulary, or another
            number of sequences.
        """
        sequences = self._started("prefill", _checked_tokens("prefill", tokens, 2))
        check_range("prefill", tokens, self._program.vocabulary)
        is_long = tokens.shape[1] > (_SHORT if self.plan.prompts else 0)
        if is_long and (sequences.length == 0 or type(self._model).__name__ not in STARTS_ANEW):
            return self._read_prompt(sequences, tokens)
        for column in tokens.unbind(1):
            logits = self._step(sequences, column)
        return logits

    def reset(self) -> None:
        """Forget all sequences."""
        self._sequences = None

    def generate(
        self,
        tokens: Tensor,
        max_new_tokens: int,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        rng: int | torch.Generator | None = None,
        stop: int | Sequence[int] | None = None,
        on_token: Callable[[Tensor], Any] | None = None,
    ) -> Tensor:
        """Read tokens, and return them with those that follow, all chosen in one compiled call.

        The options have the names and the meaning of those of transformers' ``generate``, and its order. Without any of
        temperature, top_k, top_p, min_p and rng, each token is the most probable one.

        Parameters
        ----------
        tokens : Tensor, int64, (B, T)
            The next tokens of each sequence, T >= 1.
        max_new_tokens : int
            Tokens after them, at least 1.
        temperature : float, optional
            Positive; the logits are divided by it. 1 by default.
        top_k : int, optional
            Choose among the most probable tokens; positive.
        top_p : float, optional
            Choose among the most probable tokens whose probabilities reach this sum; in (0, 1].
        min_p : float, optional
            Choose among tokens with at least this share of the largest probability; in [0, 1].
        repetition_penalty : float, optional
            Positive; divides the positive logits of tokens that have occurred, and multiplies the negative ones.
        rng : int or torch.Generator, optional
            Source of random numbers, one per token and sequence; by default torch's.
        stop : int or sequence of int, optional
            Tokens that end a sequence; by default the model's eos_token_id. Sequences that have ended are filled with
            the model's pad_token_id, or the first of these tokens.
        on_token : callable, optional
            Called with each step's tokens (B,); it may end the generation by returning True.

        Returns
        -------
        tokens : Tensor, int64, (B, T + n)
            n is ``max_new_tokens``, or less if all sequences have ended. The last token is chosen, but not read: the
            next call may begin with it.

        Raises
        ------
        TypeError, ValueError
            If tokens are no int64 tensor on the CPU, have a wrong shape or a token out of the vocabulary; if an
            option is of a wrong type or out of its range.
        """
        chosen = Options(temperature, top_k, top_p, min_p, repetition_penalty, rng, stop, on_token)
        return generate(self, _checked_tokens("generate", tokens, 2), max_new_tokens, chosen)

    # ---- States -----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Return copies of all states.

        Returns
        -------
        state : dict of str to Tensor
            For :meth:`load_state`.
        """
        return self._present("state").saved()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state that :meth:`state` has returned.

        Parameters
        ----------
        state : dict of str to Tensor
            It is copied.
        """
        self._sequences = loaded_sequences(self.plan, state, self._dtype)

    def cache(self) -> Any:
        """Return the states as a cache for the model.

        Returns
        -------
        cache : Cache
            As the model's own; its tensors are this decoder's memory until the next call.
        """
        sequences = self._present("cache")
        return cache_of(self.plan, sequences.states, self.config, sequences.length, model=self._model)

    def from_cache(self, cache: Any) -> None:
        """Continue from a cache of the model.

        Parameters
        ----------
        cache : Cache
            Its states are copied.
        """
        self._sequences = sequences_of(self.plan, cache, self._dtype, self._model)

    def fork(self, rows: Sequence[int] | Tensor | None = None) -> Decoder:
        """Return a decoder with the same weights and copies of the states of some rows.

        Parameters
        ----------
        rows : sequence of int or Tensor, optional
            Rows in any order, with repetitions, at most 8: the beams that go on. All by default: a copy to return to,
            as for tokens that may be rejected.

        Returns
        -------
        decoder : Decoder
            Goes on from these states, independently of this one.

        Raises
        ------
        TypeError, ValueError
            If no token has been read, or rows are not numbers of sequences.
        """
        sequences = self._present("fork")
        chosen = torch.arange(sequences.rows) if rows is None else torch.as_tensor(rows, dtype=torch.int64)
        if chosen.dim() != 1 or not 1 <= len(chosen) <= MAX_ROWS:
            raise ValueError(f"fork: rows must be 1 to {MAX_ROWS} numbers of rows, got shape {tuple(chosen.shape)}")
        if int(chosen.min()) < 0 or int(chosen.max()) >= sequences.rows:
            raise ValueError(f"fork: rows must be from 0 to {sequences.rows - 1}, got {chosen.tolist()}")
        result = self._without_sequences()
        result._sequences = sequences.selected(chosen)
        return result

    # ---- Internals --------------------------------------------------------------------------------------------------

    def _started(self, function: str, tokens: Tensor) -> Sequences:
        """Return the sequences, new ones if there are none, for tokens of the same number of rows."""
        rows = len(tokens)
        if not 1 <= rows <= MAX_ROWS:
            raise ValueError(f"{function}: tokens must have 1 to {MAX_ROWS} rows (accelerate has no limit), got {rows}")
        if self._sequences is None:
            self._sequences = Sequences(self.plan, rows, self._dtype)
        if self._sequences.rows != rows:
            raise ValueError(
                f"{function}: tokens must have {self._sequences.rows} rows, as the sequences that are being read, got "
                f"{rows}; reset() forgets these"
            )
        return self._sequences

    def _present(self, function: str) -> Sequences:
        if self._sequences is None:
            raise ValueError(f"{function}: a token must have been read before, got none")
        return self._sequences

    def _step(self, sequences: Sequences, tokens: Tensor, positions: Any = None) -> Tensor:
        sequences.reserve(1)
        out = torch.empty(sequences.rows, self._program.vocabulary, dtype=self._dtype)
        self._program.step(
            tokens.numpy() if tokens.is_contiguous() else tokens.contiguous().numpy(),
            sequences.positions() if positions is None else positions,
            sequences.addresses,
            length=sequences.length,
            capacity=sequences.capacity,
            firsts=sequences.firsts,
            out=out.numpy(),
        )
        sequences.length += 1
        return out

    @torch.no_grad()
    def _read_prompt(self, sequences: Sequences, tokens: Tensor) -> Tensor:
        length = sequences.length + tokens.shape[1]
        cache = new_cache(self.config, sequences.rows, self._dtype)
        if sequences.length:
            bind(self.plan, sequences.states, cache, sequences.length, model=self._model)
        where = position_ids(self._model, sequences.rows, sequences.length, length)
        logits: Tensor = self._model(tokens, cache=cache, use_cache=True, logits_to_keep=1, **where).logits
        room = length + SMALLEST_CAPACITY
        states = states_of(self.plan, cache, sequences.rows, self._dtype, capacity=room, model=self._model)
        sequences.use(states, length)
        return logits[:, -1].to(self._dtype)

    def _without_sequences(self) -> Decoder:
        result = object.__new__(Decoder)
        vars(result).update(vars(self))
        result._sequences = None
        return result


def _checked_tokens(function: str, tokens: object, axes: int) -> Tensor:
    shape = "(B,)" if axes == 1 else "(B, T)"
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64 or not tokens.is_cpu:
        got = f"{tokens.dtype} on {tokens.device}" if isinstance(tokens, Tensor) else type_name(tokens)
        raise TypeError(f"{function}: tokens must be an int64 tensor on the CPU, got {got}")
    if tokens.dim() != axes or (axes == 2 and tokens.shape[1] == 0):
        least = " with T >= 1" if axes == 2 else ""
        raise ValueError(f"{function}: tokens must have shape {shape}{least}, got {tuple(tokens.shape)}")
    return tokens


def check_range(function: str, tokens: Tensor, vocabulary: int) -> None:
    """Refuse tokens that the model does not have."""
    for bad in (int(tokens.min()), int(tokens.max())):
        if not 0 <= bad < vocabulary:
            raise ValueError(f"{function}: tokens must be from 0 to {vocabulary - 1}, got {bad}")


def check_decodable(function: str, model: object) -> None:
    """Refuse what no decoder can read: models in training mode, and those on other devices."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: model must be a torch.nn.Module, got {type_name(model)}")
    if model.training:
        raise ValueError(f"{function}: model must be in eval mode (model.eval()), got one in training mode")
    for name, x in model.named_parameters():
        if not x.is_cpu:
            raise ValueError(f"{function}: model must be on the CPU, got {name} on {x.device}")
