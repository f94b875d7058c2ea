"""Which way a score is better, by the words in its name or as said by the user."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise

# What a run costs, in the units of record.json (counts, bytes, seconds).
COSTS = (
    "trainable_params", "adapters", "bytes", "seconds_train", "seconds_per_step", "seconds_sample", "seconds_score",
    "seconds_total", "peak_memory",
)  # fmt: skip

# Words that mark a score of which less is better: losses, errors, distances, costs.
SMALLER = frozenset(
    """
    loss losses logloss error errors err errs errorrate mistake mistakes misclassification misclassified false
    mse rmse mae medae mape smape wape rmsle msle nmse nrmse sse rss rse rae mre rmsd rms mpe male epe aee ade fde mpjpe
    hamming levenshtein wer cer ter der eer hter fer ser mer fpr fnr fdr fnmr fmr far frr miss missed misses
    perplexity ppl nll nelbo bpd bpc bpb bits nats crossentropy xent bce deviance aic bic
    kl kld jsd divergence distance distances dist emd wasserstein chamfer hausdorff hd95 assd asd mmd cmmd
    fid kid sfid fvd fad fdd cfid lpips dists niqe brisque piqe mcd ece mce ace brier
    latency latencies time times seconds secs sec minutes hours ms duration runtime walltime elapsed delay lag ttft tpot
    memory vram ram gflops flops macs cost costs price energy joules watts kwh carbon co2 emissions params parameters
    drift regret forgetting drop degradation gap toxicity violations violation failures failure crashes collisions
    overfitting overfit stddev variance bytes fehler fehlerrate verlust laufzeit erreur perte
    crps rmsse mase wape waic looic pplx perplexité perplexität pinball deviation uncertainty misfit mismatch mismatches
    hallucination hallucinations unsafe collision makespan overshoot rpe dcf mindcf emission kosten coût coûts
    fehlerquote pérdida perdida errore errori perdita erro perda custo fout verlies ошибка ошибки потери потеря エラー率
    """.split()
)
# More of them; these name settings as well (l1, jitter, mem), so they tell the direction of a score but not that a
# column is one.
_SMALLER_TOO = frozenset(
    """
    l1 l2 ce bias jitter residual distortion mem bpp chi2 asr ate hinge huber dropped wall wallclock temps dauer zeit
    durée inertia deltae focal fallout pdist std sd bouldin attack
    """.split()
)
# Words that turn such a name round: the less of a loss, the better.
_LARGER = frozenset(
    "reduction improvement gain gains saved savings saving speedup speed throughput diversity similarity".split()
)
_ENDS = ("loss", "error", "損失", "损失", "誤差", "误差", "错误率", "誤り率")  # languages without blanks join words
_NEGATED = frozenset({"neg", "negative", "negated", "minus"})
# What is done about an error, or against it: the more, the better. As in error_correction, collision_free.
_AGAINST = frozenset("correction corrected detection detected recovery recovered free robustness resistance".split())
_TIMES = frozenset("s sec secs second seconds min minute minutes h hour hours ms day".split())
_COUNTS = frozenset("step steps epoch epochs iteration iterations iters episodes samples tokens trials rounds".split())
_SPLITS = frozenset("val valid validation test eval train training dev mean avg average median best final last".split())

_said: ContextVar[Mapping[str, bool] | None] = ContextVar("directions that the user said", default=None)


def tokens(name: str) -> list[str]:
    """The words of a column's name in small letters: `valLoss/top1` has val, loss, top and 1.

    >>> tokens("val/MSELoss_epoch")
    ['val', 'mse', 'loss', 'epoch']
    """
    return [t.lower() for t in re.findall(r"[^\W\d_]*?[a-z](?=[A-Z])|[A-Z]+(?=[A-Z][a-z])|[^\W\d_]+|\d+", name)]


def higher_is_better(metric: str) -> bool:
    """Whether larger values of a score are better: by what the user said, else by the words of its name.

    A name with a word for a loss, an error, a distance or a cost (val_loss, error_rate, wer, latency_ms) is better when
    small; every other name when large.

    >>> [higher_is_better(name) for name in ("clip_i", "val_loss", "neg_mean_squared_error", "images_per_second")]
    [True, False, True, True]
    """
    said = _said.get() or {}
    return said[metric] if metric in said else not _smaller(metric)


@contextmanager
def directions(said: Mapping[str, bool]) -> Iterator[None]:
    """Within this context the direction of the scores named here is what the user said (True: larger is better)."""
    token = _said.set({**(_said.get() or {}), **said})
    try:
        yield
    finally:
        _said.reset(token)


def _smaller(metric: str) -> bool:
    if metric in COSTS:
        return True
    words = tokens(metric)
    own = [w for w in words if w not in _SPLITS and not w.isdigit()]
    negated = bool(_NEGATED & set(words)) and not {"false", "rate"} & set(words)
    negated |= metric.lstrip().startswith(("-", "\N{MINUS SIGN}", "1-", "1 -", "1\N{MINUS SIGN}"))
    if "↓" in metric or "↑" in metric:  # as in tables of papers
        return "↓" in metric
    if {"likelihood", "loglikelihood", "loglik", "elbo"} & set(words) and "loss" not in words:
        return negated
    if _is_gain(words):
        return negated
    if _LARGER & set(words):
        return negated
    for first, second in pairwise(words):
        if first == "per" and second in _TIMES:
            return negated  # images per second
    if "/s" in metric.lower() and words[-1] in _TIMES:
        return negated
    smaller = any(w in SMALLER or (w.endswith(_ENDS) and w != "gloss") for w in words)
    joined = {a + b for a, b in pairwise(words)}  # l1 has the words l and 1
    smaller = smaller or bool(_SMALLER_TOO & set(words) or (SMALLER | _SMALLER_TOO) & joined)
    smaller = smaller or ("size" in words and bool({"mb", "gb", "kb"} & set(words)))
    smaller = smaller or own == ["per"] or ("cross" in words and "entropy" in words)
    smaller = smaller or any(a in _COUNTS and b == "to" for a, b in pairwise(words))
    smaller = smaller or ("rank" in words and bool({"mean", "avg", "average", "median"} & set(words)))
    return smaller != negated


def _is_gain(words: list[str]) -> bool:
    """Whether words for losses and errors stand in what is good: time to failure, error correction, explained variance.

    >>> [_is_gain(words.split()) for words in ("time to failure", "error correction rate", "detection error")]
    [True, True, False]
    """
    pairs = list(pairwise(words))
    ends = ("failure", "failures", "error", "errors", "crash", "crashes")
    if any(a in ("to", "between", "without", "before") and b in ends for a, b in pairs):
        return True
    if any((a in SMALLER or a.endswith(("loss", "error"))) and b in _AGAINST for a, b in pairs):
        return True
    return "explained" in words and bool({"variance", "deviance"} & set(words))
