"""Each metric as a function of tensors, for tests of one at a time."""

from emlnet.metrics.saliency_metrics import score


def _one(name, *inputs, **more):
    return score(*inputs, names=(name,), **more)[name]


def nss(saliency, fixations, rules="tuebingen"):
    return _one("nss", saliency, fixations, rules=rules)


def cc(saliency, density):
    return _one("cc", saliency, density=density)


def kl(saliency, density, rules="tuebingen"):
    return _one("kl", saliency, density=density, rules=rules)


def sim(saliency, density, rules="tuebingen"):
    return _one("sim", saliency, density=density, rules=rules)


def auc(saliency, fixations):
    return _one("auc", saliency, fixations)


def auc_judd(saliency, fixations):
    return _one("auc_judd", saliency, fixations, rules="mit")


def auc_borji(saliency, fixations, seeds):
    return _one("auc_borji", saliency, fixations, rules="mit", seeds=seeds)


def sauc(saliency, fixations, nonfixations, rules="tuebingen", seeds=None):
    more = {"nonfixations": nonfixations, "rules": rules, "seeds": seeds}
    return _one("sauc", saliency, fixations, **more)


def ig(prediction, fixations, baseline_log_density, rules="tuebingen"):
    given = {"saliency" if rules == "mit" else "log_density": prediction}
    more = {"baseline_log_density": baseline_log_density, "rules": rules}
    return _one("ig", fixations=fixations, **given, **more)
