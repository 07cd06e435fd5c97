"""Networks with the module names of well-known packages, and next to no weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def named(**children: nn.Module) -> nn.Module:
    """Return a module with these children, in this order."""
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


def dense() -> nn.Module:
    """Return a layer."""
    return nn.Linear(2, 2)


def norm() -> nn.Module:
    """Return a norm."""
    return nn.LayerNorm(2)


def conv() -> nn.Module:
    """Return a convolution with norm and activation."""
    return nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU())


def residual() -> nn.Module:
    """Return torchvision's `BasicBlock`, as far as names go."""
    return named(
        conv1=nn.Conv2d(2, 2, 1),
        bn1=nn.BatchNorm2d(2),
        relu=nn.ReLU(),
        conv2=nn.Conv2d(2, 2, 1),
        bn2=nn.BatchNorm2d(2),
        downsample=nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)),
    )


def attention_block() -> nn.Module:
    """Return timm's `Block`."""
    return named(
        norm1=norm(),
        attn=named(qkv=dense(), proj=dense(), proj_drop=nn.Dropout()),
        norm2=norm(),
        mlp=named(fc1=dense(), act=nn.GELU(), fc2=dense()),
    )


def bert_layer() -> nn.Module:
    """Return a layer of transformers' BERT."""
    return named(
        attention=named(
            self=named(query=dense(), key=dense(), value=dense()),
            output=named(dense=dense(), LayerNorm=norm()),
        ),
        intermediate=named(dense=dense()),
        output=named(dense=dense(), LayerNorm=norm()),
    )


def resnet() -> nn.Module:
    """Return torchvision's and timm's ResNet."""
    layers = {f"layer{i}": nn.Sequential(residual(), residual()) for i in (1, 2, 3, 4)}
    return named(
        conv1=nn.Conv2d(3, 2, 1),
        bn1=nn.BatchNorm2d(2),
        relu=nn.ReLU(),
        maxpool=nn.MaxPool2d(1),
        **layers,
        avgpool=nn.AdaptiveAvgPool2d(1),
        fc=dense(),
    )


def vgg() -> nn.Module:
    """Return torchvision's VGG."""
    features = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.ReLU())
    classifier = nn.Sequential(dense(), nn.ReLU(), nn.Dropout(), dense())
    return named(features=features, avgpool=nn.AdaptiveAvgPool2d(1), classifier=classifier)


def mobilenet() -> nn.Module:
    """Return torchvision's MobileNetV2."""
    blocks = [named(conv=nn.Sequential(conv(), nn.Conv2d(2, 2, 1))) for _ in range(3)]
    features = nn.Sequential(conv(), *blocks, conv())
    return named(features=features, classifier=nn.Sequential(nn.Dropout(), dense()))


def convnext() -> nn.Module:
    """Return torchvision's ConvNeXt."""

    def stage() -> nn.Module:
        each = [nn.Sequential(nn.Conv2d(2, 2, 1), norm(), dense()) for _ in range(2)]
        return nn.Sequential(*[named(block=block) for block in each])

    features = nn.Sequential(conv(), stage(), conv(), stage())
    classifier = nn.Sequential(norm(), nn.Flatten(), dense())
    return named(features=features, avgpool=nn.AdaptiveAvgPool2d(1), classifier=classifier)


def timm_convnext() -> nn.Module:
    """Return timm's ConvNeXt."""
    stages = [
        named(
            downsample=nn.Sequential(norm(), nn.Conv2d(2, 2, 1)),
            blocks=nn.Sequential(named(conv_dw=conv(), mlp=named(a=dense(), b=dense()))),
        )
        for _ in range(4)
    ]
    return named(
        stem=nn.Sequential(nn.Conv2d(3, 2, 1), norm()),
        stages=nn.Sequential(*stages),
        head=named(norm=norm(), fc=dense()),
    )


def vision_transformer() -> nn.Module:
    """Return torchvision's ViT."""
    layers = nn.Sequential()
    for i in range(3):
        block = named(ln_1=norm(), self_attention=named(out=dense()), ln_2=norm(), mlp=conv())
        layers.add_module(f"encoder_layer_{i}", block)
    encoder = named(dropout=nn.Dropout(), layers=layers, ln=norm())
    encoder.register_parameter("pos_embedding", nn.Parameter(torch.zeros(2)))
    model = named(conv_proj=nn.Conv2d(3, 2, 1), encoder=encoder, heads=nn.Sequential(dense()))
    model.register_parameter("class_token", nn.Parameter(torch.zeros(2)))
    return model


def timm_vit() -> nn.Module:
    """Return timm's ViT."""
    model = named(
        patch_embed=named(proj=nn.Conv2d(3, 2, 1)),
        pos_drop=nn.Dropout(),
        blocks=nn.Sequential(*[attention_block() for _ in range(3)]),
        norm=norm(),
        head=dense(),
    )
    model.register_parameter("cls_token", nn.Parameter(torch.zeros(2)))
    model.register_parameter("pos_embed", nn.Parameter(torch.zeros(2)))
    return model


def timm_efficientnet() -> nn.Module:
    """Return timm's EfficientNet."""

    def block() -> nn.Module:
        return named(conv_pw=nn.Conv2d(2, 2, 1), bn1=nn.BatchNorm2d(2), se=conv())

    return named(
        conv_stem=nn.Conv2d(3, 2, 1),
        bn1=nn.BatchNorm2d(2),
        blocks=nn.Sequential(*[nn.Sequential(block(), block()) for _ in range(3)]),
        conv_head=nn.Conv2d(2, 2, 1),
        bn2=nn.BatchNorm2d(2),
        classifier=dense(),
    )


def swin() -> nn.Module:
    """Return timm's Swin transformer."""
    layers = [
        named(downsample=named(reduction=dense(), norm=norm()),
              blocks=nn.Sequential(attention_block(), attention_block()))
        for _ in range(4)
    ]  # fmt: skip
    return named(
        patch_embed=named(proj=nn.Conv2d(3, 2, 1), norm=norm()),
        layers=nn.Sequential(*layers),
        norm=norm(),
        head=named(fc=dense()),
    )


def bert() -> nn.Module:
    """Return transformers' `BertForSequenceClassification`."""
    embeddings = named(
        word_embeddings=nn.Embedding(2, 2),
        position_embeddings=nn.Embedding(2, 2),
        token_type_embeddings=nn.Embedding(2, 2),
        LayerNorm=norm(),
    )
    encoder = named(layer=nn.ModuleList([bert_layer() for _ in range(3)]))
    body = named(embeddings=embeddings, encoder=encoder, pooler=named(dense=dense()))
    return named(bert=body, dropout=nn.Dropout(), classifier=dense())


def gpt2() -> nn.Module:
    """Return transformers' `GPT2LMHeadModel`, whose head is tied to its embedding."""
    blocks = [
        named(ln_1=norm(), attn=named(c_attn=dense(), c_proj=dense()), ln_2=norm(),
              mlp=named(c_fc=dense(), c_proj=dense()))
        for _ in range(3)
    ]  # fmt: skip
    body = named(
        wte=nn.Embedding(4, 2),
        wpe=nn.Embedding(4, 2),
        drop=nn.Dropout(),
        h=nn.ModuleList(blocks),
        ln_f=norm(),
    )
    head: Any = nn.Linear(2, 4, bias=False)
    wte: Any = body.wte
    head.weight = wte.weight
    return named(transformer=body, lm_head=head)


def t5() -> nn.Module:
    """Return transformers' T5."""

    def stack() -> nn.Module:
        def block() -> nn.Module:
            layer = [named(SelfAttention=named(q=dense(), k=dense()), layer_norm=norm())]
            layer.append(named(DenseReluDense=named(wi=dense(), wo=dense()), layer_norm=norm()))
            return named(layer=nn.ModuleList(layer))

        return named(block=nn.ModuleList([block() for _ in range(2)]), final_layer_norm=norm())

    return named(shared=nn.Embedding(4, 2), encoder=stack(), decoder=stack(), lm_head=dense())


def sequential() -> nn.Module:
    """Return torch's own transformer in a list with other layers."""
    layer = nn.TransformerEncoderLayer(2, 1, 2)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Flatten(), nn.Linear(2, 2), encoder, nn.Linear(2, 2))


def cut_resnet() -> nn.Module:
    """Return what is left of a ResNet without its head, in a list, and another head."""
    body = nn.Sequential(*list(resnet().children())[:-1])
    return named(body=body, head=dense())


STAGES: dict[str, tuple[Any, list[str]]] = {
    "resnet": (resnet, ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]),
    "vgg": (vgg, ["features.0", "features.2", "classifier.0", "classifier.3"]),
    "mobilenet": (mobilenet, [*(f"features.{i}" for i in range(5)), "classifier"]),
    "convnext": (convnext, [*(f"features.{i}" for i in range(4)), "classifier"]),
    "timm_convnext": (timm_convnext, ["stem", *(f"stages.{i}" for i in range(4)), "head"]),
    "vision_transformer": (
        vision_transformer,
        ["conv_proj", *(f"encoder.layers.encoder_layer_{i}" for i in range(3)), "heads"],
    ),
    "timm_vit": (timm_vit, ["patch_embed", "blocks.0", "blocks.1", "blocks.2", "head"]),
    "timm_efficientnet": (
        timm_efficientnet,
        ["conv_stem", "blocks.0", "blocks.1", "blocks.2", "conv_head", "classifier"],
    ),
    "swin": (swin, ["patch_embed", *(f"layers.{i}" for i in range(4)), "head"]),
    "bert": (
        bert,
        ["embeddings", *(f"encoder.layer.{i}" for i in range(3)), "pooler", "classifier"],
    ),
    "gpt2": (gpt2, ["wte", "wpe", "h.0", "h.1", "h.2", "lm_head"]),
    "sequential": (sequential, ["1", "2.layers.0", "2.layers.1", "3"]),
    "cut_resnet": (cut_resnet, ["body.0", *(f"body.{i}" for i in (4, 5, 6, 7)), "head"]),
    "t5": (
        t5,
        ["shared", "encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1",
         "lm_head"],
    ),
}  # fmt: skip
