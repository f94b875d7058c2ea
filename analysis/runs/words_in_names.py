"""Whether the name of a column says that it is a score or a setting."""

from __future__ import annotations

from analysis.runs.direction import SMALLER, tokens

_SCORES = SMALLER - {"bits", "params", "parameters", "time", "times", "memory", "ram", "power", "bytes"} | frozenset(
    """
    acc accuracy accuracies f1 fscore auc auroc auprc aupr roc ap map mrr ndcg hit hits precision recall specificity
    sensitivity iou miou jaccard dice score scores scored bleu rouge meteor chrf cider spice bertscore comet
    psnr ssim msssim snr sdr pesq stoi mos reward rewards return returns success succeeded winrate win wins elo
    dino judge r2 likelihood loglikelihood elbo throughput fps similarity correlation pearson spearman kappa mcc
    exact em pass quality preference rating coverage density diversity metric value objective yield performance perf
    top result response outcome measure measurement y target rate speed speedup points grade mark marks
    correct solved answered resolved genauigkeit trefferquote punkte précision exactitude rappel
    """.split()
)
_SETTINGS = frozenset(
    """
    lr learning batch bs batchsize dropout width depth layers layer dim dims dimension hidden units channels heads head
    kernel epochs steps iterations iters warmup decay wd momentum beta betas gamma alpha lambda eps epsilon temperature
    temp tau rank scale guidance size optimizer optim model seed k n degree level levels noise sigma fold config params
    hparams hyperparameters num number patience window length stride resolution res ratio fraction dose group condition
    treatment variant arm version type kind name fn function weight weights coef coefficient threshold split every
    interval bins bits activation norm init method scheduler schedule augment augmentation architecture arch backbone
    dataset task prompt mode flag use with
    """.split()
)
_SWITCHES = frozenset("use uses using with without no has enable enabled disable add include apply".split())
_TRAILING = frozenset("epoch step mean avg average median std best final last max min val test train eval".split())


def says_score(name: str) -> bool:
    """Whether the name has a word for a score; the last word counts most, as in `loss_weight`.

    >>> [says_score(n) for n in ("val/accuracy", "loss_weight", "train_loss_epoch", "learning_rate", "quality")]
    [True, False, True, False, True]
    """
    return _said(name) == "score"


def says_factor(name: str) -> bool:
    """Whether the name has a word for a setting, and none for a score that counts more."""
    return _said(name) == "factor"


def _said(name: str) -> str:
    words = [w for w in tokens(name) if not w.isdigit()]
    heads = [w for w in words if w not in _TRAILING] or words
    if not heads:
        return ""
    last = heads[-1]
    if heads[0] in _SWITCHES:
        return "factor"
    if heads[:2] in (["bits", "per"], ["nats", "per"]):
        return "score"
    scores = [w for w in heads if w in _SCORES or w.endswith(("loss", "error", "acc"))]
    if last in _SETTINGS:
        return "factor"
    if heads == ["rate"]:
        return ""  # of errors or of learning: its values tell
    if last == "rate" and not (set(scores) - {"rate"}) and set(words) & (_SETTINGS | {"learn"}):
        return "factor"
    if scores:
        return "score"
    return "factor" if set(heads) & _SETTINGS else ""
