"""Weights in the layouts of other programs."""

import argparse
from collections import OrderedDict
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import nn


def network(name="test_resnet", **more):
    torch.manual_seed(0)
    made = timm.create_model(name, num_classes=0, **more)
    fixed = made.default_cfg["input_size"][-1] if made.default_cfg.get("fixed_input_size") else 64
    side = more.get("img_size", fixed)
    with torch.no_grad():  # so that its statistics are not those of a new network
        made.train()(torch.randn(4, 3, side, side))
    return made.eval()


def under(prefix, net, **more):
    return {f"{prefix}{key}": value for key, value in net.state_dict().items()} | more


def other(net):
    return {key: value + 1 for key, value in net.state_dict().items()}


class Hyper:
    """Options of another program, as Lightning pickles them."""

    def __init__(self):
        self.lr, self.path = 0.1, Path("x")


def moco(net, path):
    state = OrderedDict(under("module.encoder_q.", net, **{"module.queue": torch.ones(4, 8)}))
    state |= {f"module.encoder_k.{key}": value for key, value in other(net).items()}
    state["module.encoder_q.fc.0.weight"] = torch.ones(4, 4)
    entries = {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}}}
    torch.save(entries, path, _use_new_zipfile_serialization=False)


def solo_learn(net, path):
    state = under("backbone.", net, **{"projector.0.weight": torch.ones(3)})
    state |= {f"momentum_backbone.{key}": value for key, value in other(net).items()}
    torch.save({"state_dict": state, "hyper_parameters": Hyper(), "callbacks": {Hyper: 1}}, path)


def lightly(net, path):
    state = nn.Sequential(*net.children()).state_dict()
    head = {"state_dict.projection_head.layers.0.weight": torch.ones(3)}
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in state.items()}} | head, path)


def dino(net, path):
    teacher = under("backbone.", net, **{"head.mlp.0.weight": torch.ones(3)})
    student = {f"module.backbone.{key}": value for key, value in other(net).items()}
    args = argparse.Namespace(arch="vit", out=Path("x"))
    torch.save({"student": student, "teacher": teacher, "args": args, "best": np.float64(1)}, path)


def timm_file(net, path):
    torch.save({"state_dict": under("", net, **{"fc.weight": torch.ones(2, 3)}), "epoch": 3}, path)


def parameters(net, path):
    held = dict(net.named_parameters()) | dict(net.named_buffers())
    torch.save(held, path, pickle_protocol=4)


def plain_safetensors(net, path):
    save_file(net.state_dict(), path)


LAYOUTS = {
    moco: "state_dict.module.encoder_q.",
    solo_learn: "state_dict.backbone.",
    lightly: "state_dict.backbone.",
    dino: "teacher.backbone.",
    timm_file: "state_dict.",
    parameters: "",
    plain_safetensors: "",
}
