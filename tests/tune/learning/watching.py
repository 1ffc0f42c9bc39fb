"""What tests of a stage watch: what it tells, what its weights become, how many examples it gets right."""

import torch


class Told(list):
    """Collects what a stage tells of its steps."""

    def __call__(self, step):
        self.append(dict(step))


def weights_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def right(reducer, examples):
    with torch.no_grad():
        outputs = reducer.unreduced_outputs(examples.tokens)
    return float((outputs.argmax(-1) == examples.targets).double().mean())
